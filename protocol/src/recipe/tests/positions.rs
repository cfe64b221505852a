//! Every kind of mistake, with its exact line and column.

use super::*;

/// `LUA` with `from` replaced by `to` has exactly the mistakes `wanted`.
#[track_caller]
fn changed(from: &str, to: &str, wanted: &[&str]) {
    assert!(LUA.contains(from), "{from}");
    assert_eq!(recipe_errors(&LUA.replacen(from, to, 1)), wanted);
}

/// `LUA`, 16 lines, with `more` behind it has exactly the mistakes `wanted`.
#[track_caller]
fn with(more: &str, wanted: &[&str]) {
    assert_eq!(recipe_errors(&format!("{LUA}{more}")), wanted);
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_right_name() {
    changed("version =", "versoin =", &["r.toml:3:1: [recipe] has no key `versoin` (did you mean `version`?)"]);
    changed(
        "urls =",
        "url =",
        &[
            "r.toml:6:1: [[source]] has no `urls`, `path` or `git` (say where it comes from)",
            "r.toml:8:1: [[source]] has no key `url` (did you mean `urls`?)",
        ],
    );
    changed("[[source]]", "[[sources]]", &["r.toml:6:3: a recipe has no key `sources` (did you mean `source`?)"]);
    with("[limits]\ncpus = 2\n", &["r.toml:17:1: [limits] has no key `cpus` (it may have `cores`, `memory`, `disk`, `wall` or `silent`)"]);
    with("[platform]\nfeature = []\n", &["r.toml:17:1: [platform] has no key `feature` (did you mean `features`?)"]);
    with("[[need]]\nrecipe = \"zlib\"\nwhit = {}\n", &["r.toml:18:1: [[need]] has no key `whit` (did you mean `with`?)"]);
    with("[environment]\nrootsf = \"host\"\n", &["r.toml:17:1: [environment] has no key `rootsf` (did you mean `rootfs`?)"]);
}

#[test]
fn a_wrong_type_says_what_was_found_and_what_is_wanted() {
    changed("\"5.4.6\"", "5.4", &["r.toml:3:11: `version` is a decimal number; a string is wanted"]);
    changed("1700000000", "\"1700000000\"", &["r.toml:4:9: `epoch` is a string; an integer is wanted"]);
    changed("1700000000", "-1", &["r.toml:4:9: `epoch` is out of range; 0 to 253402300799 is allowed"]);
    changed("1700000000", "2023-11-14", &["r.toml:4:9: `epoch` is a date; an integer is wanted"]);
    changed(
        "[\"https://example.org/lua-5.4.6.tar.gz\"]",
        "\"https://example.org/lua-5.4.6.tar.gz\"",
        &["r.toml:8:8: `urls` is a string; a list of strings, in square brackets, is wanted"],
    );
    changed("\"make -C lua\"", "true", &["r.toml:12:9: `build` is true or false; a string is wanted"]);
    changed(
        "[[source]]",
        "[source]",
        &["r.toml:6:1: a table where a list of tables [[source]] is wanted (write `[[source]]`, in double brackets)"],
    );
    changed("[recipe]", "[[recipe]]", &["r.toml:1:1: [recipe] is a list; one table is wanted (write `[recipe]` once, in single brackets)"]);
    with("[limits]\ncores = 2.5\n", &["r.toml:17:9: `cores` is a decimal number; an integer is wanted"]);
    with("[limits]\nmemory = 2\n", &["r.toml:17:10: `memory` is an integer; a string is wanted"]);
    with("[platform]\nos = [\"linux\"]\n", &["r.toml:17:6: `os` is a list; a string is wanted"]);
    with("[[need]]\nrecipe = \"a\"\nclosure = \"yes\"\n", &["r.toml:18:11: `closure` is a string; true or false is wanted"]);
}

#[test]
fn what_is_missing_is_named_at_its_section() {
    changed("name = \"lua\"\nversion", "version", &["r.toml:1:1: [recipe] has no `name` (write for example `name = \"lua\"`)"]);
    changed("build = \"make -C lua\"\n", "", &["r.toml:11:1: [steps] has no step (write for example `build = \"make\"`)"]);
    changed(
        "[outputs]\n\"bin/lua\" = \"lua/src/lua\"\n",
        "",
        &[
            "r.toml:1:1: a recipe has no `outputs` (write `[outputs]` and `\"bin/lua\" = \"lua/src/lua\"`, or `kind = \"check\"` in [recipe])",
        ],
    );
    changed(
        "sha256 = \"7d5ea1b9cb6aa0b59ca3dde1c6adcb57ef83a1ba8e5432c0ecd06bf439b3ad88\"\n",
        "",
        &["r.toml:8:8: [[source]] with `urls` has no `sha256` and no `blake3` (`barn lock FILE` fills it in)"],
    );
    assert_eq!(
        recipe_errors(""),
        [
            "r.toml:1:1: a recipe has no `recipe` (begin with `[recipe]` and `name = …`)",
            "r.toml:1:1: a recipe has no `steps` (write `[steps]` and `build = \"…\"`)",
            "r.toml:1:1: a recipe has no `outputs` (write `[outputs]` and `\"bin/lua\" = \"lua/src/lua\"`, or `kind = \"check\"` in [recipe])",
        ]
    );
}

#[test]
fn a_missing_hash_may_be_allowed() {
    let text = LUA.replacen("sha256 = \"7d5ea1b9cb6aa0b59ca3dde1c6adcb57ef83a1ba8e5432c0ecd06bf439b3ad88\"\n", "", 1);
    parse_recipe_with("r.toml", &text, ParseOptions { allow_missing_hashes: true }).unwrap();
}

#[test]
fn wrong_names_and_values_are_refused_where_they_stand() {
    let name = "1 to 64 characters: a small letter or digit, then small letters, digits, `+`, `.`, `_` and `-`";
    changed("name = \"lua\"", "name = \"Lua\"", &[&format!("r.toml:2:8: \"Lua\" can't be a recipe's name ({name})")]);
    changed("version = ", "kind = \"test\"\nversion = ", &["r.toml:3:8: \"test\" is no kind of recipe (\"build\" or \"check\" is wanted)"]);
    changed(
        "7d5ea1b9",
        "7d5ea1b",
        &[
            "r.toml:9:10: \"7d5ea1bcb6aa0b59ca3dde1c6adcb57ef83a1ba8e5432c0ecd06bf439b3ad88\" is no hash: it has 63 characters (64 hexadecimal digits are wanted)",
        ],
    );
    changed(
        "https://example.org/",
        "ftp://example.org/",
        &[
            "r.toml:8:9: `ftp:` is no kind of address (https:, http: or file: addresses, `debian:NAME=VERSION` and `crate:NAME@VERSION` are known)",
        ],
    );
    changed(
        "https://example.org/lua-5.4.6.tar.gz",
        "crate:lua-src",
        &["r.toml:8:9: \"crate:lua-src\" names no package and version (write for example `crate:libz-sys@1.1.20`)"],
    );
    changed(
        "https://example.org/lua-5.4.6.tar.gz",
        "debian:lua@5",
        &["r.toml:8:9: \"debian:lua@5\" names no package and version (write for example `debian:zlib=1:1.2.13.dfsg-1`)"],
    );
    changed(
        "\"lua/src/lua\"",
        "\"../lua\"",
        &["r.toml:15:13: path \"../lua\": has a part `.` or `..` (write a path without a leading `/`, without `.` and `..`)"],
    );
    changed(
        "\"bin/lua\" =",
        "\"/bin/lua\" =",
        &["r.toml:15:1: path \"/bin/lua\": is absolute (write a path without a leading `/`, without `.` and `..`)"],
    );
    changed("build =", "\"a b\" =", &["r.toml:12:1: \"a b\" can't be a step's name (letters, digits, `.`, `_` and `-`, 64 at most)"]);
    changed("build =", "sources =", &["r.toml:12:1: `sources` is the builder's own stage, no name of a step"]);
    with(
        "[vars]\n\"A-B\" = \"x\"\n",
        &["r.toml:17:1: \"A-B\" can't be an environment variable's name (letters, digits and `_`, not a digit first)"],
    );
    with(
        "[vars]\nSOURCE_DATE_EPOCH = \"1\"\n",
        &["r.toml:17:1: SOURCE_DATE_EPOCH is set by the builder (write `epoch = SECONDS` in [recipe])"],
    );
}

#[test]
fn wrong_sizes_and_times_say_how_to_write_them() {
    with(
        "[limits]\nmemory = \"2 GB i\"\n",
        &["r.toml:17:10: \"2 GB i\" is not a size: \"i\" stands behind it (write for example \"2 GiB\")"],
    );
    with(
        "[limits]\nmemory = \"2 gib\"\n",
        &["r.toml:17:10: \"2 gib\" is not a size: \"gib\" is no unit, did you mean `GiB`? (write for example \"2 GiB\")"],
    );
    with("[limits]\ndisk = \"lots\"\n", &["r.toml:17:8: \"lots\" is not a size: a number is wanted first (write for example \"2 GiB\")"]);
    with("[limits]\ndisk = \"4 KiB\"\n", &["r.toml:17:8: \"4 KiB\" is out of range (1 MiB to 1024 TiB is allowed)"]);
    with(
        "[limits]\ndisk = \"99999999 TiB\"\n",
        &["r.toml:17:8: \"99999999 TiB\" is not a size: it is too large (write for example \"2 GiB\")"],
    );
    with(
        "[limits]\nwall = \"30\"\n",
        &["r.toml:17:8: \"30\" is not a time: it has no unit; `ms`, `s`, `min`, `h` or `d` is wanted (write for example \"30 min\")"],
    );
    with(
        "[limits]\nwall = \"30 mins\"\n",
        &["r.toml:17:8: \"30 mins\" is not a time: \"mins\" is no unit, did you mean `min`? (write for example \"30 min\")"],
    );
    with("[limits]\nsilent = \"31 d\"\n", &["r.toml:17:10: \"31 d\" is out of range (1 s to 30 d is allowed)"]);
    with("[limits]\ncores = 0\n", &["r.toml:17:9: `cores` is out of range; 1 to 1024 is allowed"]);
    with("[limits]\ncores = 99999999999999999999\n", &["r.toml:17:9: `cores` is out of range; 1 to 1024 is allowed"]);
}

#[test]
fn sizes_and_times_are_read_exactly() {
    assert_eq!(parse_size("2 GiB"), Ok(2 << 30));
    assert_eq!(parse_size(" 1.5KiB "), Ok(1536));
    assert_eq!(parse_size("7 MB"), Ok(7_000_000));
    assert_eq!(parse_duration("1 h 30 min"), Ok(std::time::Duration::from_secs(5400)));
    assert_eq!(parse_duration("0.5s"), Ok(std::time::Duration::from_millis(500)));
    for wrong in ["", "1..5 GiB", ".5 GiB", "5. GiB", "1.0000000001 GiB", "-1 GiB", "1 GiB 1 MiB", "20000000 TiB"] {
        parse_size(wrong).unwrap_err();
    }
}

#[test]
fn a_source_is_of_one_kind_and_has_only_its_keys() {
    changed(
        "urls =",
        "path = \"patches\"\nurls =",
        &["r.toml:8:1: [[source]] has `path` beside `urls` (one of `urls`, `path` and `git` is wanted)"],
    );
    with(
        "[[source]]\nname = \"p\"\npath = \"patches\"\nsha256 = \"00\"\n",
        &["r.toml:19:1: `sha256` has no meaning beside `path` (it is pinned by its own content)"],
    );
    with(
        "[[source]]\nname = \"p\"\ngit = \"https://example.org/p\"\n",
        &["r.toml:18:7: [[source]] with `git` has no `rev` and no `branch` (write `rev = \"COMMIT\"`)"],
    );
    with(
        "[[source]]\nname = \"p\"\ngit = \"https://example.org/p\"\nrev = \"v1\"\n",
        &[
            "r.toml:19:7: \"v1\" is no commit (write all of its hexadecimal digits; a tag can be moved, so it pins nothing (`branch = …` is pinned at submit))",
        ],
    );
    with(
        "[[source]]\nname = \"p\"\ngit = \"https://example.org/p\"\nbranch = \"a\"\nrev = \"0123456789012345678901234567890123456789\"\n",
        &["r.toml:19:1: [[source]] has `branch` beside `rev` (one of them is wanted)"],
    );
    with("[[source]]\nname = \"p\"\nurls = []\nblake3 = \"{h}\"\n", &["r.toml:18:8: `urls` is empty (give at least one address)"]);
}

#[test]
fn platforms_are_known_by_rusts_names() {
    with("[platform]\narch = \"amd64\"\n", &["r.toml:17:8: \"amd64\" is no architecture (did you mean `x86_64`?)"]);
    with("[platform]\narch = [\"aarch64\", \"x86_46\"]\n", &["r.toml:17:20: \"x86_46\" is no architecture (did you mean `x86_64`?)"]);
    with("[platform]\nos = \"Linux\"\n", &["r.toml:17:6: \"Linux\" is no operating system (did you mean `linux`?)"]);
    with(
        "[platform]\narch = \"arm\"\neach = [\"x86\"]\n",
        &["r.toml:18:1: [platform] has `each` beside `arch` (`arch` is any of its list, `each` is a job for each: write one)"],
    );
    with("[platform]\neach = [\"x86\", \"x86\"]\n", &["r.toml:17:16: \"x86\" is given twice"]);
    with(
        "[platform]\nnever = { \"netbds/m68k\" = \"panics\" }\n",
        &["r.toml:17:11: \"netbds\" is no operating system (did you mean `netbsd`?)"],
    );
    with("[platform]\nnever = { \"netbsd/m68k\" = \"\" }\n", &["r.toml:17:27: an empty text"]);
}

#[test]
fn braces_that_are_no_axis_are_refused_at_the_brace() {
    let help = "write `{{` and `}}` for the braces themselves";
    with(
        "[vars]\nA = \"x{Device}\"\n",
        &[&format!(
            "r.toml:17:7: `{{Device}}` does not name an axis: a name of an axis is a small letter, then small letters, digits, `_` and `-` ({help})"
        )],
    );
    with("[vars]\nA = \"\"\"\nx{device\"\"\"\n", &["r.toml:18:2: `{` without a `}` (write `{{` for the brace itself)"]);
    with("[vars]\nA = 'ü}'\n", &["r.toml:17:7: `}` without a `{` (write `}}` for the brace itself)"]);
}

#[test]
fn all_mistakes_of_a_file_are_reported_in_order() {
    let text = "[recipe]\nname = 1\nvesion = \"1\"\n[limits]\nwall = \"x\"\n[steps]\nbuild = 1\n[outputs]\n\"../a\" = \"a\"\n";
    assert_eq!(
        recipe_errors(text),
        [
            "r.toml:2:8: `name` is an integer; a string is wanted",
            "r.toml:3:1: [recipe] has no key `vesion` (did you mean `version`?)",
            "r.toml:5:8: \"x\" is not a time: a number is wanted first (write for example \"30 min\")",
            "r.toml:7:9: `build` is an integer; a string is wanted",
            "r.toml:9:1: path \"../a\": has a part `.` or `..` (write a path without a leading `/`, without `.` and `..`)",
        ]
    );
}

#[test]
fn broken_toml_reports_every_syntax_error() {
    let found = parse_recipe("r.toml", "[recipe\nname = \n[steps]\nbuild = \"x\n").unwrap_err();
    let places: Vec<_> = found.iter().map(|found| (found.line, found.column)).collect();
    assert!(places.len() >= 2, "{found:?}");
    assert!(places.iter().any(|(line, _)| *line == 4), "{found:?}");
    let twice = recipe_errors("[recipe]\nname = \"a\"\nname = \"b\"\n");
    assert_eq!(twice, ["r.toml:3:1: not TOML: duplicate key"]);
}

#[test]
fn json_mistakes_have_places_too() {
    let good = r#"{"recipe": {"name": "a"}, "steps": {"build": "true"}, "outputs": {"o": "o"}}"#;
    assert_eq!(parse_recipe("r.json", good).unwrap().name, "a");
    let at = |text: &str| lines(&parse_recipe("r.json", text).unwrap_err());
    assert_eq!(
        at("{\n  \"recipe\": {\"name\": \"a\", \"vers\": \"1\"},\n  \"steps\": {\"build\": 1},\n  \"outputs\": {\"o\": \"o\"}\n}"),
        ["r.json:2:27: [recipe] has no key `vers` (did you mean `version`?)", "r.json:3:22: `build` is an integer; a string is wanted",]
    );
    assert_eq!(at("{\"recipe\": {\"name\": \"a\", \"name\": \"b\"}}"), ["r.json:1:26: not JSON: key `name` is given twice"]);
    assert_eq!(at("{\n \"recipe\": nul\n}"), ["r.json:2:12: not JSON: 'n' found where a value is wanted"]);
    assert_eq!(at("{\"a\": \"x\ny\"}"), ["r.json:1:9: not JSON: a control character in a string; write it as an escape"]);
    assert_eq!(at("{} x"), ["r.json:1:4: not JSON: something stands behind the end of the document"]);
    assert_eq!(at("{\"a\": 01}"), ["r.json:1:8: not JSON: a number with a leading zero"]);
    assert_eq!(at("{\"a\": \"\\ud800x\"}"), ["r.json:1:8: not JSON: half of a surrogate pair"]);
    assert_eq!(at(""), ["r.json:1:1: not JSON: the file ends where a value is wanted"]);
    assert_eq!(at("[1]"), ["r.json:1:1: a recipe is a list; one table is wanted"]);
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(at(&deep), ["r.json:1:65: not JSON: more than 64 levels of nesting"]);
}

#[test]
fn batch_mistakes_have_places() {
    let batch = |more: &str| batch_errors(&format!("[batch]\nname = \"b\"\nrecipes = [\"*.toml\"]\n{more}"));
    assert_eq!(
        batch_errors("[batch]\n"),
        [
            "b.toml:1:1: [batch] has no `name` (write for example `name = \"nightly\"`)",
            "b.toml:1:1: [batch] has no `recipes` (write for example `recipes = [\"recipes/*.toml\"]`)",
        ]
    );
    assert_eq!(batch("chanel = \"x\"\n"), ["b.toml:4:1: [batch] has no key `chanel` (did you mean `channel`?)"]);
    assert_eq!(
        batch("priority = \"urgent\"\n"),
        ["b.toml:4:12: \"urgent\" is no priority (`security`, `release`, `maintainer`, `nightly` or `background` is wanted)"]
    );
    assert_eq!(batch("labels = { pr = 11704 }\n"), ["b.toml:4:17: `pr` is an integer; a string is wanted"]);
    assert_eq!(
        batch("targets = { \"a.img\" = \"image\" }\n"),
        ["b.toml:4:23: \"image\" names no recipe and output (write \"RECIPE/OUTPUT\")"]
    );
    assert_eq!(
        batch("targets = { \"a/b.img\" = \"image/x\" }\n"),
        [
            "b.toml:4:13: \"a/b.img\" has a `/`; names in a channel have no folders (a file's name without folders, for example \"LE-{device}.img\")"
        ]
    );
    assert_eq!(
        batch("[matrix]\ndevice = \"RPi4\"\n"),
        ["b.toml:5:10: `device` is a string; a list of strings, in square brackets, is wanted"]
    );
    assert_eq!(batch("[matrix]\ndevice = []\n"), ["b.toml:5:10: axis `device` has no value (give it at least one, or leave it out)"]);
    assert_eq!(batch("[matrix]\ndevice = [\"a\", \"a\"]\n"), ["b.toml:5:16: \"a\" is given twice"]);
    assert_eq!(
        batch("[matrix]\nDevice = [\"a\"]\n"),
        ["b.toml:5:1: \"Device\" does not name an axis (a name of an axis is a small letter, then small letters, digits, `_` and `-`)"]
    );
    assert_eq!(
        batch("[matrix]\ninclude = { a = \"b\" }\n"),
        ["b.toml:5:11: `include` is a table; a list of tables is wanted (write for example `include = [{ device = \"RPi5\" }]`)"]
    );
}
