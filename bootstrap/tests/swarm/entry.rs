//! The program `barn-bootstrap` as people and scripts use it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use barnraiser_bootstrap::Multiaddr;
use barnraiser_bootstrap::identity::peer_of;

use crate::rig::{DEADLINE, NETWORK, Node, QUIC, TCP, log};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_barn-bootstrap"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Ends the program however the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn start(command: &mut Command, lines: usize) -> (Self, Vec<Multiaddr>) {
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let addresses = output.lines().take(lines).map(|line| line.unwrap().parse().unwrap()).collect();
        (Self(child), addresses)
    }

    /// Sends a signal; the exit code.
    fn end(mut self, signal: &str) -> Option<i32> {
        let sent = Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(start.elapsed() < DEADLINE, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn entry_server_prints_its_addresses_and_ends_cleanly() {
    log();
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    let start = || Running::start(program().args(["--listen", TCP, QUIC, "--key"]).arg(&key), 2);
    let (server, addresses) = start();
    let peer = peer_of(&addresses[0]);
    assert!(peer.is_some() && addresses.iter().all(|address| peer_of(address) == peer), "{addresses:?}");
    let (one, two) = (Node::new(&[TCP]).await, Node::new(&[QUIC]).await);
    one.net.join(NETWORK, vec![addresses[0].clone()], Vec::new()).await.unwrap();
    two.net.join(NETWORK, vec![addresses[1].clone()], Vec::new()).await.unwrap();
    one.meets(&[&two]).await;
    two.meets(&[&one]).await;
    assert_eq!(server.end("-TERM"), Some(0));
    // With its key file it is the same server again.
    let (again, addresses) = start();
    assert_eq!(peer_of(&addresses[0]), peer);
    assert_eq!(again.end("-INT"), Some(0));
}

fn refused(arguments: &[&str]) -> String {
    let mut child = program().args(arguments).spawn().unwrap();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(2), "{arguments:?}: {text}");
    text
}

#[test]
fn bad_usage_is_refused_with_what_to_do() {
    assert!(refused(&[]).contains("--listen"));
    assert!(refused(&["--listen", "localhost:4001"]).contains("localhost:4001"));
    let unsupported = refused(&["--listen", "/ip4/127.0.0.1/sctp/1"]);
    assert!(unsupported.contains("can't listen on /ip4/127.0.0.1/sctp/1"), "{unsupported}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", taken.local_addr().unwrap().port());
    let in_use = refused(&["--listen", &address]);
    assert!(in_use.contains(&address) && in_use.contains("choose another"), "{in_use}");
    let not_here = refused(&["--listen", "/ip4/192.0.2.1/tcp/0"]);
    assert!(not_here.contains("192.0.2.1"), "{not_here}");
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, "secret").unwrap();
    let no_key = refused(&["--listen", TCP, "--key", key.to_str().unwrap()]);
    assert!(no_key.contains("64 hexadecimal digits"), "{no_key}");
}
