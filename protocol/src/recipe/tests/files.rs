//! What a file says becomes what the types say, in both notations.

use super::*;
use crate::graph::JobKind;

const WHOLE: &str = r#"
[recipe]
name = "zlib-ng"
version = "2.1"
kind = "check"
summary = "All of it"

[vars]
DEVICE = "{device}"
BRACES = "{{x}}"

[[source]]
name = "z"
urls = ["debian:zlib=1:1.2.13", "crate:libz-sys@1.1.20", "file:///srv/z.tar"]
blake3 = "{hash}"
unpack = false

[[source]]
name = "p"
path = "patches"

[[source]]
name = "g"
git = "https://example.org/g"
branch = "main"
submodules = true

[environment]
rootfs = "debian-c@3"
programs = ["cmake"]

[[need]]
recipe = "zlib"
with = { device = "RPi5" }
at = "/needs/z"
closure = true
only = ["lib/**"]

[steps]
shell = "bash -eu"
zebra = "1"
apple = "2"

[limits]
cores = 2
memory = "1 GiB"

[platform]
arch = ["x86_64", "aarch64"]
isa = "x86-64-v2"
features = ["device:rpi4"]
never = { "netbsd/m68k" = "panics the kernel", "linux/x86" = "too small" }
"#;

#[test]
fn every_key_is_read() {
    let recipe = parse_recipe("z.toml", WHOLE).unwrap();
    assert_eq!(recipe.kind, JobKind::Check);
    assert_eq!(recipe.shell, ["bash", "-eu"]);
    // Steps stay in the order of the file.
    assert_eq!(recipe.steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(), ["zebra", "apple"]);
    assert_eq!(recipe.vars[1].1.literal(), Some("{x}"));
    assert_eq!(recipe.vars[0].1.literal(), None);
    assert_eq!(recipe.vars[0].1.written(), "{device}");
    assert!(matches!(&recipe.sources[0].origin, Origin::Urls { urls, unpack: false, sha256: None, blake3: Some(_) } if urls.len() == 3));
    assert!(matches!(&recipe.sources[1].origin, Origin::Path { unpack: false, .. }));
    assert!(matches!(&recipe.sources[2].origin, Origin::Git { point: GitPoint::Branch(_), submodules: true, .. }));
    assert!(recipe.needs[0].closure);
    assert_eq!(recipe.needs[0].with[0].0, "device");
    assert_eq!(recipe.limits.wall.literal(), Some("60 min"));
    assert_eq!(recipe.platform.never.len(), 2);
    assert_eq!(recipe.platform.never[1].arch.as_deref(), Some("x86"));
}

/// The same recipe in JSON is the same recipe, but for the places.
#[test]
fn json_says_the_same_as_toml() {
    let table: toml::Table = WHOLE.parse().unwrap();
    let json = serde_json::to_string_pretty(&table).unwrap();
    let options = ExpandOptions { environments: [("debian-c@3".to_owned(), crate::id::BlobHash([7; 32]))].into(), ..options() };
    let batch = batch(&format!("[matrix]\ndevice = [\"RPi4\", \"RPi5\"]\nhash = [\"{}\"]\n", "a".repeat(64)));
    let zlib = small("zlib", "[vars]\nD = \"{device}\"\n");
    let graph = |recipe: Recipe| expand(&batch, &[recipe, zlib.clone()], &options).unwrap().graph;
    let from_json = graph(parse_recipe("z", &json).unwrap());
    assert_eq!(from_json, graph(parse_recipe("z.toml", WHOLE).unwrap()));
    assert_eq!(from_json.jobs[2].steps[0].name, "zebra");
}

#[test]
fn a_batch_is_told_from_a_recipe() {
    assert!(is_batch("b", "[batch]\n"));
    assert!(is_batch("b", "{\"batch\": {}}"));
    assert!(!is_batch("r", LUA));
    assert!(!is_batch("r", "[batch"));
    let batch = parse_batch(
        "b.toml",
        "[batch]\nname = \"LE\"\nchannel = \"nightly\"\npriority = \"nightly\"\nrecipes = [\"a\", \"b\"]\nrevision = \"r\"\nurl = \"u\"\nlabels = { pr = \"11704\" }\n[batch.targets]\n\"LE-{device}.img\" = \"image/LE.img\"\n[matrix]\ndevice = [\"RPi4\"]\n",
    )
    .unwrap();
    assert_eq!(batch.priority, crate::record::payload::Priority::Nightly);
    assert_eq!(batch.labels, [("pr".to_owned(), "11704".to_owned())]);
    assert_eq!(batch.targets[0].recipe.literal(), Some("image"));
    assert_eq!(batch.targets[0].output.literal(), Some("LE.img"));
}
