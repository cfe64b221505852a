//! What a user would take instead: `sendme`, and nginx with curl and b3sum. Set up here, with whatever versions there are.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use super::usage;

/// The version of sendme that is set up.
const SENDME: &str = "0.37.1";

/// How long what a peer does took, and the processor time that both of its sides used, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    /// From the start of the fetching program to its end.
    pub wall_s: f64,
    /// Of both sides.
    pub cpu_s: f64,
}

/// Runs a program to its end.
fn run(command: &mut Command) -> anyhow::Result<f64> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().with_context(|| format!("{command:?}"))?;
    let mut said = String::new();
    if let Some(errors) = &mut child.stderr {
        errors.read_to_string(&mut said)?;
    }
    let (status, cpu_s) = usage::wait(&mut child)?;
    ensure!(status.success(), "{command:?}: {}", said.trim());
    Ok(cpu_s)
}

/// What a program says of its version.
pub fn version(program: &Path, argument: &str) -> anyhow::Result<String> {
    let output = Command::new(program).arg(argument).output().with_context(|| format!("{} can't be run", program.display()))?;
    let said = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    Ok(String::from_utf8_lossy(&said).lines().next().unwrap_or_default().trim().to_owned())
}

/// A process that is asked to end when this is dropped, and then waited for.
pub struct Server(pub Child);

impl Server {
    /// Ends it; the processor time that it and its children used, in seconds.
    pub fn end(mut self) -> anyhow::Result<f64> {
        self.terminate()?;
        Ok(usage::wait(&mut self.0)?.1)
    }

    fn terminate(&self) -> anyhow::Result<()> {
        ensure!(Command::new("kill").arg(self.0.id().to_string()).status()?.success(), "a server could not be ended");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// Where sendme is, compiled the first time.
pub fn sendme() -> anyhow::Result<PathBuf> {
    let root = std::path::absolute(crate::figure::folder()?.join("peers/sendme"))?;
    let program = root.join("bin/sendme");
    if !program.is_file() {
        eprintln!("swarm: compiles sendme {SENDME}, once; takes about ten minutes");
        let mut install = Command::new("cargo");
        install.args(["install", "--locked", "--quiet", "sendme", "--version", SENDME, "--root"]).arg(&root);
        run(install.env_remove("CARGO_TARGET_DIR"))?;
    }
    Ok(program)
}

/// `sendme send` and `sendme receive`, without relays.
pub fn by_sendme(program: &Path, file: &Path, to: &Path) -> anyhow::Result<Took> {
    let folder = tempfile::tempdir_in(to.parent().context("a file has a folder")?)?;
    let mut send = Command::new(program);
    send.args(["send", "--relay", "disabled", "--no-progress"]).arg(file).current_dir(folder.path());
    let mut server = send.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let out = server.stdout.take().context("no output")?;
    let server = Server(server);
    let mut ticket = None;
    for line in BufReader::new(out).lines() {
        ticket = line?.split_whitespace().find(|word| word.starts_with("blob")).map(str::to_owned);
        if ticket.is_some() {
            break;
        }
    }
    let ticket = ticket.context("sendme says no ticket")?;
    let start = Instant::now();
    let receiving =
        run(Command::new(program).args(["receive", "--relay", "disabled", "--no-progress", &ticket]).current_dir(folder.path()))?;
    let wall_s = start.elapsed().as_secs_f64();
    let got = folder.path().join(file.file_name().context("a file has a name")?);
    ensure!(got.metadata()?.len() == file.metadata()?.len(), "sendme brought something else");
    Ok(Took { wall_s, cpu_s: receiving + server.end()? })
}

/// nginx with TLS 1.3 over a folder; its address.
pub fn nginx(root: &Path, work: &Path) -> anyhow::Result<(Server, String)> {
    std::fs::create_dir_all(work)?;
    let (key, certificate) = (work.join("key.pem"), work.join("cert.pem"));
    run(Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-subj", "/CN=localhost", "-days", "1", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate))?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let listen = format!(
        "listen 127.0.0.1:{port} ssl; ssl_protocols TLSv1.3; ssl_certificate {}; ssl_certificate_key {};",
        certificate.display(),
        key.display()
    );
    let config = configuration(root, work, &listen);
    let file = work.join("nginx.conf");
    std::fs::write(&file, config)?;
    let server = Server(Command::new("nginx").arg("-c").arg(&file).arg("-p").arg(work).stderr(Stdio::null()).spawn()?);
    let started = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        if started.elapsed() > Duration::from_secs(10) {
            bail!("nginx does not listen: {}", std::fs::read_to_string(work.join("error.log")).unwrap_or_default());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok((server, format!("https://127.0.0.1:{port}")))
}

/// The configuration of an nginx over a folder, without encryption, on a port of the loopback.
pub fn plain_nginx(root: &Path, work: &Path, port: u16) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(work)?;
    let file = work.join("nginx.conf");
    std::fs::write(&file, configuration(root, work, &format!("listen 127.0.0.1:{port};")))?;
    Ok(file)
}

fn configuration(root: &Path, work: &Path, listen: &str) -> String {
    format!(
        "user root; daemon off; master_process off; pid {work}/pid; error_log {work}/error.log;\nevents {{}}\nhttp {{ access_log off; sendfile on;\n\
         client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/fastcgi; uwsgi_temp_path {work}/uwsgi;\n\
         scgi_temp_path {work}/scgi;\nserver {{ {listen} root {root}; }} }}\n",
        work = work.display(),
        root = root.display(),
    )
}

/// nginx, curl, then b3sum of what came.
pub fn by_nginx(file: &Path, to: &Path, work: &Path) -> anyhow::Result<Took> {
    let root = std::path::absolute(file.parent().context("a file has a folder")?)?;
    let (server, address) = nginx(&root, work)?;
    let name = file.file_name().and_then(|name| name.to_str()).context("a file has a name")?;
    let start = Instant::now();
    let mut cpu_s = run(Command::new("curl").args(["-sSk", "--tlsv1.3", "-o"]).arg(to).arg(format!("{address}/{name}")))?;
    cpu_s += run(Command::new("b3sum").arg(to))?;
    let wall_s = start.elapsed().as_secs_f64();
    Ok(Took { wall_s, cpu_s: cpu_s + server.end()? })
}
