//! The transports of a node, with its traffic counted and limited on the way to the sockets.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent};
use libp2p::core::transport::Boxed;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{PeerId, Transport as _, quic, tcp};

use super::Traffic;
use super::gate::Flow;
use crate::transport::{Tls, TlsError, Yamux};

/// TCP (TLS, yamux) and QUIC. What is counted is what the sockets carry: TLS and the streams are on top of that.
///
/// # Errors
/// [`TlsError`]: no certificate can be made for the key.
pub(crate) fn transport(key: &Keypair, traffic: &Arc<Traffic>) -> Result<Boxed<(PeerId, StreamMuxerBox)>, TlsError> {
    let counting = traffic.clone();
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .map(move |stream, _| Counted::new(stream, counting.clone()))
        .upgrade(Version::V1Lazy)
        .authenticate(Tls::new(key)?)
        .multiplex(Yamux::default())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let counting = traffic.clone();
    let quic = quic::tokio::Transport::new(quic::Config::new(key))
        .map(move |(peer, muxer), _| (peer, StreamMuxerBox::new(CountedMuxer { inner: muxer, traffic: counting.clone() })));
    Ok(tcp.or_transport(quic).map(|either, _| either.into_inner()).boxed())
}

/// A socket, or a stream, whose bytes are counted and wait where they must.
pub(super) struct Counted<S> {
    inner: S,
    traffic: Arc<Traffic>,
    up: Flow,
    down: Flow,
}

impl<S> Counted<S> {
    fn new(inner: S, traffic: Arc<Traffic>) -> Self {
        Self { inner, traffic, up: Flow::default(), down: Flow::default() }
    }
}

impl<S> Drop for Counted<S> {
    fn drop(&mut self) {
        self.traffic.up.closed(&mut self.up);
        self.traffic.down.closed(&mut self.down);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let may = ready!(this.traffic.down.poll_pass(&mut this.down, cx, buffer.len()));
        let read = ready!(Pin::new(&mut this.inner).poll_read(cx, &mut buffer[..may]))?;
        this.traffic.down.moved(&mut this.down, read);
        Poll::Ready(Ok(read))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let may = ready!(this.traffic.up.poll_pass(&mut this.up, cx, bytes.len()));
        let written = ready!(Pin::new(&mut this.inner).poll_write(cx, &bytes[..may]))?;
        this.traffic.up.moved(&mut this.up, written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let whole: usize = slices.iter().map(|slice| slice.len()).sum();
        let may = ready!(this.traffic.up.poll_pass(&mut this.up, cx, whole));
        let written = if may >= whole {
            ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, slices))?
        } else {
            // The first that has any: as much of it as may go.
            let first = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
            ready!(Pin::new(&mut this.inner).poll_write(cx, &first[..may.min(first.len())]))?
        };
        this.traffic.up.moved(&mut this.up, written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_close(cx)
    }
}

/// A connection whose streams are counted.
struct CountedMuxer<M> {
    inner: M,
    traffic: Arc<Traffic>,
}

impl<M: StreamMuxer + Unpin> StreamMuxer for CountedMuxer<M>
where
    M::Substream: Unpin,
{
    type Substream = Counted<M::Substream>;
    type Error = M::Error;

    fn poll_inbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Self::Substream, Self::Error>> {
        let this = self.get_mut();
        Pin::new(&mut this.inner).poll_inbound(cx).map_ok(|stream| Counted::new(stream, this.traffic.clone()))
    }

    fn poll_outbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Self::Substream, Self::Error>> {
        let this = self.get_mut();
        Pin::new(&mut this.inner).poll_outbound(cx).map_ok(|stream| Counted::new(stream, this.traffic.clone()))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.get_mut().inner).poll_close(cx)
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        Pin::new(&mut self.get_mut().inner).poll(cx)
    }
}
