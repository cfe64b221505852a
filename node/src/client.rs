//! Talks to the node of a home over its Unix socket: HTTP/1, JSON both ways ([`crate::api`]).
//!
//! A connection for each request: on a Unix socket that costs less than the answer, and there is no state to go stale.
//! Every failure is a [`Problem`]: the node's own words where it answered, else what is wrong with reaching it.

use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::api::Problem;
use crate::home::Home;

/// The most bytes of an answer that is read whole: a batch of 100,000 jobs has less.
const ANSWER_BYTES_MAX: usize = 512 << 20;
/// The most bytes of an error's text.
const PROBLEM_BYTES_MAX: usize = 1 << 20;
/// The most bytes of one line of a stream.
const LINE_BYTES_MAX: usize = 16 << 20;
/// How long a question may take until its answer begins. What works for minutes (a submit, a fetch) is no question.
const QUESTION_TIME: Duration = Duration::from_secs(60);

/// A way to the node of a home.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// The node that listens on `socket`. Nothing is sent yet, and none need be there.
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The node of `home`. Nothing is sent yet, and none need be running.
    pub fn connect(home: &Home) -> Self {
        Self::at(home.socket_path())
    }

    /// The answer to a `GET`, from JSON.
    ///
    /// # Errors
    /// [`Problem`]: the node's, or that it can't be reached.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Problem> {
        parse(&self.get_bytes(path).await?.1)
    }

    /// The answer to a `GET` as it came, with its headers.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_bytes(&self, path: &str) -> Result<(HeaderMap, Bytes), Problem> {
        let question = self.send(Method::GET, path, Bytes::new());
        let late = |_| Problem::unreachable(format!("the node did not answer within {} s", QUESTION_TIME.as_secs()));
        let response = tokio::time::timeout(QUESTION_TIME, question).await.map_err(late)??;
        let headers = response.headers().clone();
        Ok((headers, whole(response.into_body(), ANSWER_BYTES_MAX).await?))
    }

    /// The answer to a `POST` of `body`, both JSON. Waits as long as the node works.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post<B: Serialize + Sync, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, Problem> {
        parse(&self.post_bytes(path, body).await?)
    }

    /// The answer to a `POST` of `body`, as it came.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post_bytes<B: Serialize + Sync>(&self, path: &str, body: &B) -> Result<Bytes, Problem> {
        let response = self.send(Method::POST, path, json(body)?).await?;
        whole(response.into_body(), ANSWER_BYTES_MAX).await
    }

    /// The answer to a `GET` that is one JSON document a line, as they come.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_lines<T: DeserializeOwned>(&self, path: &str) -> Result<Lines<T>, Problem> {
        Ok(Lines::new(self.send(Method::GET, path, Bytes::new()).await?.into_body()))
    }

    /// The answer to a `POST` of `body` that is one JSON document a line, as they come.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post_lines<B: Serialize + Sync, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<Lines<T>, Problem> {
        Ok(Lines::new(self.send(Method::POST, path, json(body)?).await?.into_body()))
    }

    /// The answer to a `POST` of bytes that come as they come, JSON.
    ///
    /// # Errors
    /// As [`Client::get`]; the node sees that the bytes break off where they end with an error.
    pub async fn post_stream<S, T>(&self, path: &str, bytes: S) -> Result<T, Problem>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
        T: DeserializeOwned,
    {
        let body = StreamBody::new(bytes.map_ok(Frame::data));
        let response = self.send_body(Method::POST, path, body).await?;
        parse(&whole(response.into_body(), ANSWER_BYTES_MAX).await?)
    }

    /// The answer to a `GET` in pieces, as they come.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_pieces(&self, path: &str) -> Result<Pieces, Problem> {
        Ok(Pieces(self.send(Method::GET, path, Bytes::new()).await?.into_body()))
    }

    /// A response whose status is a success.
    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, Problem> {
        self.send_body(method, path, Full::new(body)).await
    }

    async fn send_body<B>(&self, method: Method, path: &str, body: B) -> Result<Response<Incoming>, Problem>
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| unconnected(&self.socket, &error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        // It ends by itself when the response has been read or dropped.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the node broke");
            }
        });
        let request = Request::builder().method(method).uri(path).header(HOST, "barn").header(CONTENT_TYPE, "application/json");
        let request = request.body(body).map_err(|error| Problem::usage(format!("{path:?} can't be asked for: {error}")))?;
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = whole(response.into_body(), PROBLEM_BYTES_MAX).await?;
        Err(refusal(status, &body))
    }
}

/// The bytes of an answer, piece by piece.
#[derive(Debug)]
pub struct Pieces(Incoming);

impl Pieces {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// [`Problem`] where the node broke off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        while let Some(frame) = self.0.frame().await {
            if let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

/// A stream of JSON documents, one a line. Lines of server-sent events are read too.
#[derive(Debug)]
pub struct Lines<T> {
    body: Incoming,
    /// What has come and was not given out yet; up to `scanned` there is no line end in it.
    buffer: Vec<u8>,
    scanned: usize,
    of: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Lines<T> {
    fn new(body: Incoming) -> Self {
        Self { body, buffer: Vec::new(), scanned: 0, of: PhantomData }
    }

    /// Bytes that stand behind the document that was read last, which said how many they are: `most` of them or fewer, as they
    /// come. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Problem`] where the node went away before they came.
    pub async fn bytes(&mut self, most: u64) -> Result<Bytes, Problem> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        self.scanned = 0;
        if !self.buffer.is_empty() {
            let rest = self.buffer.split_off(most.min(self.buffer.len()));
            return Ok(std::mem::replace(&mut self.buffer, rest).into());
        }
        while let Some(frame) = self.body.frame().await {
            if let Ok(mut data) = frame.map_err(|error| broken(&error))?.into_data()
                && !data.is_empty()
            {
                let rest = data.split_off(most.min(data.len()));
                self.buffer.extend_from_slice(&rest);
                return Ok(data);
            }
        }
        Err(Problem::unreachable("the node stopped in the middle of the bytes that it had announced"))
    }

    /// The next document; `None` at the end. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Problem`] where the node went away or what it sent can't be read.
    pub async fn next(&mut self) -> Result<Option<T>, Problem> {
        loop {
            while let Some(line) = self.line() {
                if let Some(document) = document(&line) {
                    return parse(document).map(Some);
                }
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(broken(&error)),
                None => {
                    let rest = std::mem::take(&mut self.buffer);
                    self.scanned = 0;
                    return document(&rest).map(parse).transpose();
                }
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(Problem::failed(format!("the node sent a line of more than {LINE_BYTES_MAX} bytes")));
            }
        }
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        match self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n') {
            Some(at) => {
                let rest = self.buffer.split_off(self.scanned + at + 1);
                self.scanned = 0;
                Some(std::mem::replace(&mut self.buffer, rest))
            }
            None => {
                self.scanned = self.buffer.len();
                None
            }
        }
    }
}

/// The JSON in a line: all of it, or what stands behind `data:` of a server-sent event.
fn document(line: &[u8]) -> Option<&[u8]> {
    let line = line.trim_ascii();
    if let Some(data) = line.strip_prefix(b"data:") {
        return Some(data.trim_ascii_start());
    }
    // A comment keeps the connection alive; the other fields say what the document says itself.
    let passed_over: [&[u8]; 4] = [b":", b"event:", b"id:", b"retry:"];
    (!line.is_empty() && !passed_over.iter().any(|field| line.starts_with(field))).then_some(line)
}

async fn whole(body: Incoming, limit: usize) -> Result<Bytes, Problem> {
    let known = body.size_hint().lower();
    if known > limit as u64 {
        return Err(Problem::failed(format!("the node's answer has {known} bytes, at most {limit} are read")));
    }
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Problem::failed(format!("the node's answer has more than {limit} bytes"))),
        Err(error) => Err(Problem::unreachable(format!("the node went away while it answered: {error}"))),
    }
}

fn json(body: &impl Serialize) -> Result<Bytes, Problem> {
    serde_json::to_vec(body).map(Bytes::from).map_err(|error| Problem::failed(format!("the question can't be written: {error}")))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let unread = |error| {
        format!("the node's answer can't be read ({error}): is it of another version than this `barn`? Start it again with `barn run`")
    };
    serde_json::from_slice(bytes).map_err(|error| Problem::failed(unread(error)))
}

/// What the node says is wrong.
fn refusal(status: StatusCode, body: &[u8]) -> Problem {
    serde_json::from_slice(body).unwrap_or_else(|_| {
        // Not of this API: the HTTP library's own words (an unknown path, a body of the wrong form).
        let text: String = String::from_utf8_lossy(body).chars().take(400).collect();
        let message = format!("the node answered {status}{}{}", if text.is_empty() { "" } else { ": " }, text.trim());
        Problem { status: status.as_u16(), message }
    })
}

fn unconnected(socket: &Path, error: &io::Error) -> Problem {
    match error.kind() {
        // No socket, or one that a node which was killed left behind.
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Problem::unreachable("no node is running on this home; start it with `barn run`")
        }
        io::ErrorKind::PermissionDenied => {
            Problem::forbidden(format!("the node's socket {} belongs to another user: {error}", socket.display()))
        }
        _ => Problem::unreachable(format!("the node's socket {} can't be used: {error}", socket.display())),
    }
}

fn broken(error: &hyper::Error) -> Problem {
    Problem::unreachable(format!("the connection to the node broke ({error}): has it been stopped?"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use axum::Json;
    use axum::Router;
    use axum::body::Body;
    use axum::extract::Path as Segment;
    use axum::routing::{get, post};
    use tokio::net::UnixListener;

    use super::*;
    use crate::api::{Done, Pause};

    /// A node that knows a few paths.
    fn node(folder: &Path) -> Client {
        let socket = folder.join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let lines = || async {
            let parts = [
                "{\"message\": \"a\"}\n{\"mess",
                "age\": \"b\"}\n\n: comment\nevent: x\n",
                "data: {\"message\": \"c\"}\n\n{\"message\": \"d\"}",
            ];
            Body::from_stream(futures::stream::iter(parts.map(Ok::<_, io::Error>)))
        };
        let refuse = |Segment(status): Segment<u16>| async move {
            let problem = Problem { status, message: "no such batch".into() };
            (axum::http::StatusCode::from_u16(status).unwrap(), Json(problem))
        };
        let router = Router::new()
            .route("/done", get(|| async { Json(Done { message: "it is".into() }) }))
            .route("/echo", post(|Json(pause): Json<Pause>| async move { Json(Done { message: format!("{:?}", pause.for_s) }) }))
            .route("/lines", get(lines).post(lines))
            .route("/refuse/{status}", get(refuse))
            .route("/text", get(|| async { ([("x-barn-complete", "true")], "bytes") }));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Client::at(socket)
    }

    #[tokio::test]
    async fn questions_are_answered() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(folder.path());
        assert_eq!(node.get::<Done>("/done").await.unwrap().message, "it is");
        let done: Done = node.post("/echo", &Pause { for_s: Some(7) }).await.unwrap();
        assert_eq!(done.message, "Some(7)");
        let (headers, body) = node.get_bytes("/text").await.unwrap();
        assert_eq!((headers["x-barn-complete"].as_bytes(), &*body), (&b"true"[..], &b"bytes"[..]));
    }

    /// However the stream is cut into pieces, and whichever of both forms the lines have.
    #[tokio::test]
    async fn streams_come_line_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(folder.path());
        for mut lines in [node.get_lines::<Done>("/lines").await.unwrap(), node.post_lines("/lines", &()).await.unwrap()] {
            let mut messages = Vec::new();
            while let Some(done) = lines.next().await.unwrap() {
                messages.push(done.message);
            }
            assert_eq!(messages, ["a", "b", "c", "d"]);
        }
    }

    /// Bytes between the lines, with line ends in them, however the stream is cut.
    #[tokio::test]
    async fn bytes_behind_a_line_are_not_taken_for_lines() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let whole: &[u8] = b"{\"message\": \"8\"}\n\n{}\n\n\n\n\n{\"message\": \"3\"}\nabc{\"message\": \"0\"}\n{\"message\": \"9\"}\nxy";
        let router = Router::new().route(
            "/cut/{size}",
            get(move |Segment(size): Segment<usize>| async move {
                let parts: Vec<_> = whole.chunks(size).map(|part| Ok::<_, io::Error>(Bytes::from_static(part))).collect();
                Body::from_stream(futures::stream::iter(parts))
            }),
        );
        tokio::spawn(async move { axum::serve(listener, router).await });
        for size in [1, 2, 7, 20, 1000] {
            let mut lines = Client::at(&socket).get_lines::<Done>(&format!("/cut/{size}")).await.unwrap();
            let mut seen = Vec::new();
            for _ in 0..3 {
                let mut left: u64 = lines.next().await.unwrap().unwrap().message.parse().unwrap();
                while left > 0 {
                    let bytes = lines.bytes(left).await.unwrap();
                    left -= bytes.len() as u64;
                    seen.extend_from_slice(&bytes);
                }
            }
            assert_eq!(seen, b"\n{}\n\n\n\n\nabc", "cut into pieces of {size}");
            let left: u64 = lines.next().await.unwrap().unwrap().message.parse().unwrap();
            let mut cut_off = Ok(Bytes::new());
            for _ in 0..left {
                cut_off = lines.bytes(left).await;
            }
            assert_eq!(cut_off.unwrap_err().exit_code(), 6, "fewer came than were announced");
        }
    }

    #[tokio::test]
    async fn refusals_keep_their_words_and_exit_code() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(folder.path());
        let code = async |status: u16| node.get::<Done>(&format!("/refuse/{status}")).await.unwrap_err();
        assert_eq!(code(404).await, Problem::not_found("no such batch"));
        assert_eq!(code(422).await.exit_code(), 4);
        // Not an answer of the API: an unknown path, and an answer of another form.
        assert_eq!(node.get::<Done>("/nothing").await.unwrap_err().exit_code(), 3);
        assert!(node.get::<BTreeMap<String, u64>>("/done").await.unwrap_err().message.contains("another version"));
    }

    #[tokio::test]
    async fn a_home_without_a_node_says_how_to_start_one() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let none = Client::at(&socket).get::<Done>("/done").await.unwrap_err();
        assert_eq!((none.exit_code(), none.message.contains("barn run")), (6, true));
        // A node that was killed leaves its socket behind.
        drop(UnixListener::bind(&socket).unwrap());
        let stale = Client::at(&socket).get::<Done>("/done").await.unwrap_err();
        assert_eq!(stale, none);
    }
}
