//! Opens the fetched image and runs what is in it, with nothing of this machine but the kernel.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use super::report::ProgramRun;
use super::stage::{Stage, trouble};
use crate::api::Problem;

/// How long a program of the image may take.
const RUN_TIME: Duration = Duration::from_secs(20);
/// Where programs of administrators are, which are not in everybody's search path.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What is packed and unpacked.
const TEXT: &[u8] = b"Many hands make light work. ";

/// Reads the file system out of the image at `path`, and runs each of its programs in it.
///
/// # Errors
/// It can't be opened: `debugfs` is missing or refuses the file.
pub async fn open_and_run(stage: &Stage, path: &Path) -> Result<Vec<ProgramRun>, Problem> {
    let root = stage.path("image");
    std::fs::create_dir(&root).map_err(trouble(root.display()))?;
    let mut command = Command::new("debugfs");
    command.env("PATH", PATH).env("DEBUGFS_PAGER", "cat").arg("-R").arg(format!("rdump / {}", root.display())).arg(path);
    let output = command.stdin(Stdio::null()).output().await.map_err(trouble("debugfs (package e2fsprogs) can't be run"))?;
    if !root.join("bin").is_dir() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Problem::failed(format!("debugfs finds no folder bin in the image: {said}")));
    }
    let text = TEXT.repeat(1000);
    let mut runs = vec![lua(&root).await];
    for (program, arguments) in [("gz", [].as_slice()), ("bzip2", ["-c"].as_slice())] {
        runs.push(round_trip(&root, program, arguments, &text).await);
    }
    Ok(runs)
}

async fn lua(root: &Path) -> ProgramRun {
    let script = "print(_VERSION .. ' says that 6 * 7 is ' .. 6 * 7)";
    let ran = run(root, "/bin/lua", &["-e", script], &[]).await;
    let (printed, right) = match ran {
        Ok(bytes) => {
            let printed = String::from_utf8_lossy(&bytes).trim().to_owned();
            let right = printed == "Lua 5.4 says that 6 * 7 is 42";
            (printed, right)
        }
        Err(why) => (why, false),
    };
    ProgramRun { program: "/bin/lua".into(), did: "printed", printed, right }
}

/// Packs `text` and unpacks what came of it.
async fn round_trip(root: &Path, program: &str, arguments: &[&str], text: &[u8]) -> ProgramRun {
    let path = format!("/bin/{program}");
    let packed = run(root, &path, arguments, text).await;
    let unpacked = match &packed {
        Ok(packed) => run(root, &path, &["-d"], packed).await,
        Err(why) => Err(why.clone()),
    };
    let (printed, right) = match (packed, unpacked) {
        (Ok(packed), Ok(unpacked)) if unpacked == text && packed.len() < text.len() => {
            (format!("{} bytes to {} and back", text.len(), packed.len()), true)
        }
        (Ok(packed), Ok(unpacked)) => (format!("{} bytes to {} to {} others", text.len(), packed.len(), unpacked.len()), false),
        (_, Err(why)) | (Err(why), _) => (why, false),
    };
    ProgramRun { program: path, did: "packed and unpacked", printed, right }
}

/// Runs a program of the image with the image as its root: it sees no file and no process of this machine, and no network.
async fn run(root: &Path, program: &str, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, String> {
    let mut command = Command::new("bwrap");
    command.env_clear().env("PATH", PATH);
    command.args(["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--ro-bind"]).arg(root).arg("/");
    command.args(["--chdir", "/", "--", program]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("bwrap can't be run: {error}"))?;
    let stdin = child.stdin.take();
    // Written while the output is read, so that neither waits for the other.
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A program that ends before it has read all says so by its exit code.
            let _ = stdin.write_all(input).await;
        }
    };
    let ended = timeout(RUN_TIME, async { tokio::join!(feed, child.wait_with_output()).1 }).await;
    let output = ended.map_err(|_| format!("it did not end in {RUN_TIME:?}"))?.map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
    }
}
