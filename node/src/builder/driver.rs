//! The shell script that runs inside the sandbox: unpacks archives, runs the steps, and tells how it goes.
//!
//! It is process 1 of its process namespace, so when it ends, the kernel kills everything that is left. It tells its
//! progress in lines on descriptor 3, which the steps don't get. A step could still find that pipe; all it can forge
//! is its own outcome, which it decides anyway: which process holds the sandbox is said elsewhere, by bubblewrap.
//!
//! Before anything else it waits to be told to go on. Bubblewrap asks the kernel to end it with its parent, but a parent
//! that died before that leaves it alone for ever. When the driver runs, both processes of bubblewrap have asked; so if
//! the node answers it was alive until then, and if it does not, the driver finds the end of its input and ends.

use barnraiser_protocol::action::Action;

use super::inputs::Archive;

/// Where the driver, the scripts and the archives lie in the sandbox.
pub const PLACE: &str = "/run/barn";

/// A line that the driver wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// The first program in the sandbox runs.
    Started,
    /// Archive number so-and-so is being unpacked.
    Unpacking(usize),
    /// All sources lie there.
    Unpacked,
    /// Step number so-and-so runs.
    Step(usize),
    /// What ran last ended with this code.
    Ended(i32),
    /// All steps have passed.
    Done,
}

impl Status {
    /// What `line` says, if anything.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let word = words.next()?;
        let number = words.next();
        match word {
            "started" => Some(Self::Started),
            "unpacking" => Some(Self::Unpacking(number?.parse().ok()?)),
            "unpacked" => Some(Self::Unpacked),
            "step" => Some(Self::Step(number?.parse().ok()?)),
            "ended" => Some(Self::Ended(number?.parse().ok()?)),
            "done" => Some(Self::Done),
            _ => None,
        }
    }
}

/// The process that holds everything in the sandbox, as this machine numbers it, of what bubblewrap wrote of itself.
pub fn init_of(status: &str) -> Option<u32> {
    let json: serde_json::Value = serde_json::from_str(status.lines().next()?).ok()?;
    u32::try_from(json.get("child-pid")?.as_u64()?).ok()
}

/// Unpacks archive `$1` of kind `$2` to `$3`, one leading folder stripped. What lies at the place already stays; a
/// second thing of the same name is an error.
const UNPACK: &str = r#"
unpack() (
    set -e
    fresh=/build/.barn-unpack-$1
    mkdir "$fresh"
    case $2 in
        zip) unzip -q -o "/run/barn/archive-$1" -d "$fresh" ;;
        *) tar -x --no-same-owner -f "/run/barn/archive-$1" -C "$fresh" ;;
    esac
    chmod -R u+rwX "$fresh"
    from=$fresh
    count=0
    for entry in "$fresh"/* "$fresh"/.[!.]* "$fresh"/..?*; do
        if [ -e "$entry" ] || [ -L "$entry" ]; then
            count=$((count + 1))
            only=$entry
        fi
    done
    if [ "$count" = 1 ] && [ -d "$only" ] && [ ! -L "$only" ]; then
        from=$only
    fi
    mkdir -p "$3"
    for entry in "$from"/* "$from"/.[!.]* "$from"/..?*; do
        if [ -e "$entry" ] || [ -L "$entry" ]; then
            target=$3/${entry##*/}
            if [ -e "$target" ] || [ -L "$target" ]; then
                echo "barn: $target is there already" >&2
                exit 1
            fi
            mv "$entry" "$3/"
        fi
    done
    rm -rf "$fresh"
)
"#;

/// Tells the code of what ran last, and goes on only where it is 0.
const ENDED: &str = r#"code=$?; echo "ended $code" >&3; [ $code = 0 ] || exit 1"#;

/// The driver of `action`, whose archives lie at `/run/barn/archive-N` and whose scripts at `/run/barn/step-N`.
pub fn script(action: &Action, archives: &[Archive], prelude: &str) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("echo started >&3\nread -r go || exit 1\nexec </dev/null\numask 022\ncd /build || exit 1\n");
    text.push_str(prelude);
    if !archives.is_empty() {
        text.push_str(UNPACK);
    }
    for (number, archive) in archives.iter().enumerate() {
        let kind = if archive.zip { "zip" } else { "tar" };
        let place = quote(&format!("/build/{}", archive.at));
        let title = quote(&format!("==> unpack {}", archive.at));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "echo 'unpacking {number}' >&3\nprintf '%s\\n' {title}");
        // Not `unpack … ||`: a shell ignores `set -e` in what it tests.
        let _ = writeln!(text, "unpack {number} {kind} {place} </dev/null 3>&-\n{ENDED}");
    }
    if !action.sources.is_empty() {
        // All sources at one time: an archive's own times would differ where a source came as a tree, and `make` must
        // find no generated file older than what it was made from.
        let _ = writeln!(text, "find /build -exec touch -h -d '@{}' {{}} + </dev/null 3>&-\n{ENDED}", action.epoch);
    }
    text.push_str("echo unpacked >&3\n");
    let shell: Vec<String> = action.shell.iter().map(|word| quote(word)).collect();
    let shell = shell.join(" ");
    for (number, step) in action.steps.iter().enumerate() {
        let title = quote(&format!("==> step {}", step.name));
        let _ = writeln!(text, "echo 'step {number}' >&3\nprintf '%s\\n' {title}");
        let _ = writeln!(text, "{shell} <{PLACE}/step-{number} 3>&-\n{ENDED}");
    }
    text.push_str("echo done >&3\n");
    text
}

/// `word` as one word of a shell script.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines_of_both_writers_are_understood() {
        assert_eq!(init_of("{ \"child-pid\": 7, \"net-namespace\": 1 }\n{ \"exit-code\": 0 }\n"), Some(7));
        assert_eq!((init_of("{ \"exit-code\": 0 }\n"), init_of("{ \"child-"), init_of("")), (None, None, None));
        // A step can write to the pipe of these, and must not name another process of the machine.
        assert_eq!(Status::parse(r#"{ "child-pid": 7 }"#), None);
        assert_eq!(Status::parse("step 2"), Some(Status::Step(2)));
        assert_eq!(Status::parse("ended 137"), Some(Status::Ended(137)));
        assert_eq!(Status::parse("step x"), None);
        assert_eq!(Status::parse("nonsense"), None);
    }

    #[test]
    fn quoting_leaves_nothing_to_the_shell() {
        assert_eq!(quote("a'b $(c)"), r"'a'\''b $(c)'");
    }
}
