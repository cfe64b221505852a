//! TLS 1.3 as libp2p specifies it: each side has a certificate that its node key vouches for.
//!
//! AES-GCM where the processor has instructions for it (several times as fast as ChaCha20 then), else ChaCha20-Poly1305.
//! Certificates are made and checked by libp2p. Sessions are not resumed: all peers go by one name, under which
//! another's session would be offered.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt as _};
use futures::io::{BufReader, BufWriter};
use futures::{AsyncRead, AsyncWrite};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use libp2p::PeerId;
use libp2p::core::UpgradeInfo;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade};
use libp2p::identity::Keypair;
use libp2p::tls::certificate;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::crypto::aws_lc_rs::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme, SupportedCipherSuite};

/// What rustls reads in steps of 4 KiB is read from the socket in steps of this, where so much is there: a connection that
/// carries little never touches the rest of it.
const READ_BYTES: usize = 128 << 10;
/// Writes that are shorter are put together until somebody flushes: a TLS record has room for so many.
const GATHER_BYTES: usize = 16 << 10;
/// The name of the protocol inside TLS, as the specification has it.
const ALPN: &[u8] = b"libp2p";

/// A connection with TLS on it.
pub type Secured<C> = BufWriter<TlsStream<BufReader<C>>>;

/// Why a connection was not secured.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// This machine can't make a certificate.
    #[error("no certificate could be made: {0}")]
    Certificate(#[from] certificate::GenError),
    /// The library refuses the settings, which tests would show.
    #[error("TLS can't be set up: {0}")]
    Setup(#[from] rustls::Error),
    /// The handshake failed: the peer speaks something else, or does not have the key that it says.
    #[error("the handshake failed: {0}")]
    Handshake(#[from] io::Error),
    /// The peer's certificate does not say who it is.
    #[error("the peer's certificate is not one of libp2p: {0}")]
    Peer(#[from] certificate::ParseError),
    /// The peer sent no certificate, or several.
    #[error("the peer sent another number of certificates than one")]
    CertificateCount,
}

/// Secures connections with TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Tls {
    /// For the node with this key.
    ///
    /// # Errors
    /// [`TlsError::Certificate`], [`TlsError::Setup`].
    pub fn new(key: &Keypair) -> Result<Self, TlsError> {
        let has_aes = has_aes();
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites = suites(has_aes);
        let provider = Arc::new(provider);
        let versions = &[&rustls::version::TLS13];
        let (certificate, private_key) = certificate::generate(key)?;
        // Without rustls's own look at it: that knows no extension of libp2p.
        let own = CertifiedKey::new(vec![certificate], provider.key_provider.load_private_key(private_key)?);
        let own = Arc::new(SingleCertAndKey::from(own));
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(Arc::new(ByNodeKey))
            .with_cert_resolver(own.clone());
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.send_tls13_tickets = 0;
        // Whoever is slow with AES says no to it; who has it takes what the client is fast with.
        server.ignore_client_order = !has_aes;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(ByNodeKey))
            .with_client_cert_resolver(own);
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        Ok(Self { server: Arc::new(server), client: Arc::new(client) })
    }
}

/// Whether the processor has instructions for AES.
fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// The ciphers, those first that this machine is fast with.
fn suites(has_aes: bool) -> Vec<SupportedCipherSuite> {
    let aes = [TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384];
    let chacha = [TLS13_CHACHA20_POLY1305_SHA256];
    if has_aes { [&aes[..], &chacha].concat() } else { [&chacha[..], &aes].concat() }
}

impl UpgradeInfo for Tls {
    type Info = &'static str;
    type InfoIter = std::iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once("/tls/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> InboundConnectionUpgrade<C> for Tls {
    type Output = (PeerId, Secured<C>);
    type Error = TlsError;
    type Future = BoxFuture<'static, Result<Self::Output, TlsError>>;

    fn upgrade_inbound(self, socket: C, _: Self::Info) -> Self::Future {
        async move {
            let socket = BufReader::with_capacity(READ_BYTES, socket);
            let stream = TlsAcceptor::from(self.server).accept(socket).await?;
            let peer = peer(stream.get_ref().1)?;
            Ok((peer, BufWriter::with_capacity(GATHER_BYTES, stream.into())))
        }
        .boxed()
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> OutboundConnectionUpgrade<C> for Tls {
    type Output = (PeerId, Secured<C>);
    type Error = TlsError;
    type Future = BoxFuture<'static, Result<Self::Output, TlsError>>;

    fn upgrade_outbound(self, socket: C, _: Self::Info) -> Self::Future {
        async move {
            // A name that is an address is not sent. Whether the peer is the one that was dialled, the swarm checks.
            let name = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
            let socket = BufReader::with_capacity(READ_BYTES, socket);
            let stream = TlsConnector::from(self.client).connect(name, socket).await?;
            let peer = peer(stream.get_ref().1)?;
            Ok((peer, BufWriter::with_capacity(GATHER_BYTES, stream.into())))
        }
        .boxed()
    }
}

/// Whose connection it is.
fn peer(state: &CommonState) -> Result<PeerId, TlsError> {
    match state.peer_certificates() {
        Some([certificate]) => Ok(certificate::parse(certificate)?.peer_id()),
        _ => Err(TlsError::CertificateCount),
    }
}

/// Believes a certificate that says which node it is for, with that node's signature; there is no authority above nodes.
#[derive(Debug)]
struct ByNodeKey;

impl ByNodeKey {
    fn check(certificate: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        if !others.is_empty() {
            return Err(rustls::Error::General("more than one certificate".into()));
        }
        // Proves the extension with the node's key, and the certificate's signature by itself.
        certificate::parse(certificate)?;
        Ok(())
    }

    fn signature(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        certificate::parse(certificate)?.verify_signature(signed.scheme, message, signed.signature())?;
        Ok(HandshakeSignatureValid::assertion())
    }

    /// Those that the specification asks for and certificates are made with nowadays; none is older than TLS 1.3.
    fn schemes() -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ECDSA_NISTP384_SHA384, SignatureScheme::ED25519]
    }
}

fn too_old() -> rustls::Error {
    rustls::Error::General("TLS 1.2 is not spoken".into())
}

impl ServerCertVerifier for ByNodeKey {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Self::check(certificate, others).map(|()| ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(too_old())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::signature(message, certificate, signed)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

impl ClientCertVerifier for ByNodeKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Self::check(certificate, others).map(|()| ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(too_old())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::signature(message, certificate, signed)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::{AsyncReadExt as _, AsyncWriteExt as _};
    use rustls::CipherSuite;
    use tokio_util::compat::TokioAsyncReadCompatExt as _;

    use super::*;

    async fn connected(server: Tls, client: Tls) -> (Result<PeerId, TlsError>, Result<(PeerId, CipherSuite), TlsError>) {
        let (near, far) = tokio::io::duplex(1 << 20);
        let serving = async {
            let (peer, mut stream) = server.upgrade_inbound(near.compat(), "").await?;
            let mut said = Vec::new();
            stream.read_to_end(&mut said).await?;
            assert_eq!(said.len(), 100_000);
            Ok(peer)
        };
        let asking = async {
            let (peer, mut stream) = client.upgrade_outbound(far.compat(), "").await?;
            stream.write_all(&vec![7; 100_000]).await?;
            stream.close().await?;
            let suite = stream.get_ref().get_ref().1.negotiated_cipher_suite().unwrap().suite();
            Ok((peer, suite))
        };
        tokio::join!(serving, asking)
    }

    #[tokio::test]
    async fn each_side_learns_the_others_node() {
        let keys = [Keypair::generate_ed25519(), Keypair::generate_ed25519()];
        let [server, client] = [0, 1].map(|of| Tls::new(&keys[of]).unwrap());
        let (client_seen, server_seen) = connected(server, client).await;
        assert_eq!(client_seen.unwrap(), keys[1].public().to_peer_id());
        assert_eq!(server_seen.unwrap().0, keys[0].public().to_peer_id());
    }

    /// Two that are fast with AES use it; one that is not gets what it is fast with, whichever side it is on.
    #[tokio::test]
    async fn cipher_is_one_that_both_are_fast_with() {
        let with = |has_aes: bool| {
            let mut tls = Tls::new(&Keypair::generate_ed25519()).unwrap();
            let mut provider = (**tls.client.crypto_provider()).clone();
            provider.cipher_suites = suites(has_aes);
            let mut client = ClientConfig::builder_with_provider(provider.into())
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(ByNodeKey))
                .with_client_cert_resolver(tls.client.client_auth_cert_resolver.clone());
            client.alpn_protocols = vec![ALPN.to_vec()];
            tls.client = client.into();
            let mut server = (*tls.server).clone();
            server.ignore_client_order = !has_aes;
            tls.server = server.into();
            tls
        };
        let chacha = CipherSuite::TLS13_CHACHA20_POLY1305_SHA256;
        assert_eq!(connected(with(true), with(true)).await.1.unwrap().1, CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert_eq!(connected(with(true), with(false)).await.1.unwrap().1, chacha);
    }

    /// What is no certificate of libp2p is refused by both sides, and so is one whose node did not sign it.
    #[test]
    fn certificate_that_no_node_vouches_for_is_refused() {
        let (real, _) = certificate::generate(&Keypair::generate_ed25519()).unwrap();
        assert!(ByNodeKey::check(&real, &[]).is_ok());
        assert!(ByNodeKey::check(&real, std::slice::from_ref(&real)).is_err(), "one certificate, no chain");
        assert!(ByNodeKey::check(&CertificateDer::from(vec![1, 2, 3]), &[]).is_err());
        for at in (0..real.len()).step_by(7) {
            let mut forged = real.to_vec();
            forged[at] ^= 1;
            assert!(ByNodeKey::check(&CertificateDer::from(forged), &[]).is_err(), "byte {at} may be changed");
        }
    }
}
