//! No input panics, hangs or takes more memory than its own size calls for.

use proptest::prelude::*;

use super::*;

const BATCH: &str = "[batch]\nname = \"b\"\nrecipes = [\"*\"]\ntargets = { \"x-{device}\" = \"lua/bin/lua\" }\n[matrix]\ndevice = [\"a\", \"b\"]\nexclude = [{ device = \"a\" }]\n";

/// Pieces that turn one structure into another.
fn piece() -> impl Strategy<Value = String> {
    let words = [
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "{{",
        "\"",
        "\"\"\"",
        "'",
        "=",
        ".",
        ",",
        "\n",
        "\r",
        "#",
        "\\",
        "\\u",
        "\u{0}",
        "ü",
        "\u{1f600}",
        "1e999",
        "0x",
        "-",
        "name",
        "source",
        "need",
        "{device}",
        "recipe = \"lua\"",
        "[[need]]\nrecipe = \"lua\"\n",
        "[platform]\neach = [\"arm\"]\n",
        "null",
        "true",
        "..",
        "/",
    ];
    prop_oneof![prop::sample::select(words.to_vec()).prop_map(str::to_owned), "\\PC{0,6}"]
}

/// `text` with pieces put in and parts taken out at places that are characters' borders.
fn mangled(text: &'static str) -> impl Strategy<Value = String> {
    prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, piece()), 0..6).prop_map(move |edits| {
        let mut characters: Vec<char> = text.chars().collect();
        for (at, remove, insert) in edits {
            let at = at.index(characters.len() + 1);
            let end = (at + remove).min(characters.len());
            characters.splice(at..end, insert.chars());
        }
        characters.into_iter().collect()
    })
}

fn json() -> &'static str {
    static JSON: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    JSON.get_or_init(|| serde_json::to_string_pretty(&LUA.parse::<toml::Table>().unwrap()).unwrap())
}

/// `LUA` without its hash.
fn unlocked() -> &'static str {
    static UNLOCKED: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    UNLOCKED.get_or_init(|| LUA.lines().filter(|line| !line.starts_with("sha256")).map(|line| format!("{line}\n")).collect())
}

/// All that can be done with a file.
fn all(recipe: &str, batch: &str) {
    for name in ["r.toml", "r.json"] {
        let read = parse_recipe(name, recipe);
        let parsed = parse_batch(name, batch);
        for diagnostic in read.as_ref().err().into_iter().flatten().chain(parsed.as_ref().err().into_iter().flatten()) {
            assert!(diagnostic.line >= 1 && diagnostic.column >= 1 && !diagnostic.message.is_empty());
        }
        let hashes = [(0, SourceHash::Sha256("ab".repeat(32)))].into();
        let _ = lock_edits(name, recipe, &hashes);
        let recipes: Vec<Recipe> = read.into_iter().collect();
        let batch = parsed.or_else(|_| recipes.first().map(BatchFile::of_recipe).ok_or(()));
        if let Ok(batch) = batch
            && let Ok(plan) = expand(&batch, &recipes, &options())
        {
            plan.resolve(&found(&plan, None)).unwrap();
        }
    }
}

proptest! {
    #[test]
    fn mangled_files_are_refused_or_read(recipe in mangled(LUA), batch in mangled(BATCH)) {
        all(&recipe, &batch);
    }

    #[test]
    fn mangled_json_is_refused_or_read(recipe in mangled(json())) {
        all(&recipe, "");
    }

    #[test]
    fn rubbish_is_refused(text in "\\PC{0,200}") {
        all(&text, &text);
    }

    /// The own JSON reader accepts what `serde_json` accepts, and nothing else but what it must for duplicates.
    #[test]
    fn json_agrees_with_serde(text in mangled(json())) {
        let ours = super::super::json::parse(&text);
        let theirs = serde_json::from_str::<serde_json::Value>(&text);
        if let Err(error) = &ours {
            let own_rule = error.message.contains("given twice") || error.message.contains("nesting");
            prop_assert!(own_rule || theirs.is_err(), "{text:?}: {}", error.message);
        } else if let Err(error) = theirs {
            prop_assert!(error.to_string().contains("number out of range"), "{text:?}: {error}");
        }
    }

    /// A locked file says what it said, and the hash beside.
    #[test]
    fn locking_keeps_the_rest(recipe in mangled(unlocked())) {
        let hashes = [(0, SourceHash::Sha256("ab".repeat(32)))].into();
        // The whole TOML type refuses some numbers that the parser of places lets through.
        if let (Ok(locked), Ok(before)) = (lock_edits("r.toml", &recipe, &hashes), recipe.parse::<toml::Table>()) {
            let mut table = locked.parse::<toml::Table>().unwrap();
            if locked != recipe {
                table["source"][0].as_table_mut().unwrap().remove("sha256").unwrap();
            }
            prop_assert_eq!(table, before);
        }
    }
}

#[test]
fn deep_nesting_is_refused() {
    for open in ["[", "{a=", "{ a.b = ", "[[a]]\n[[a.b]]\n"] {
        let text = format!("a = {}", open.repeat(100_000 / open.len()));
        parse_recipe("r.toml", &text).unwrap_err();
        parse_batch("r.json", &text).unwrap_err();
    }
    let keys = format!("{} = 1", vec!["a"; 50_000].join("."));
    parse_recipe("r.toml", &keys).unwrap_err();
}

#[test]
fn a_file_beyond_a_mebibyte_is_refused() {
    let text = format!("#{}\n{LUA}", "x".repeat(FILE_BYTES_MAX));
    assert!(recipe_errors(&text)[0].starts_with("r.toml:1:1: the file has "));
}

/// A mistake on each line is at most a page of messages, and the last says how many more there are.
#[test]
fn errors_are_bounded() {
    let vars: String = (0..20_000).map(|number| format!("V{number} = {number}\n")).collect();
    let found = recipe_errors(&format!("{LUA}[vars]\n{vars}"));
    assert_eq!(found.len(), DIAGNOSTICS_MAX);
    assert_eq!(found[DIAGNOSTICS_MAX - 1], "r.toml:20016:10: 19901 more errors are not shown (mend the first ones and try again)");
}

#[test]
fn a_matrix_is_bounded_before_it_is_laid_out() {
    let axes: String = (0..20).map(|axis| format!("a{axis} = [\"1\", \"2\", \"3\", \"4\"]\n")).collect();
    assert_eq!(
        expand_errors(&batch(&format!("[matrix]\n{axes}")), &[small("a", "")]),
        ["batch.toml:5:1: the matrix has 1099511627776 cells, at most 10000 are allowed"]
    );
    let axes: String = (0..40).map(|axis| format!("a{axis} = [\"1\"]\n")).collect();
    let found = batch_errors(&format!("[batch]\nname = \"b\"\nrecipes = [\"a\"]\n[matrix]\n{axes}"));
    assert_eq!(found, ["b.toml:4:1: 40 axes, at most 32 are allowed"]);
}

/// One mistake in every cell is one message, found without looking through all cells for each.
#[test]
fn a_mistake_that_every_cell_repeats_is_cheap() {
    let values: Vec<String> = (0..10_000).map(|value| format!("\"{value}\"")).collect();
    let batch = batch(&format!("[batch.targets]\n\"x\" = \"nothing/x\"\n[matrix]\na = [{}]\n", values.join(",")));
    let app = small("app", "[vars]\nA = \"{a}\"\n[[need]]\nrecipe = \"lib\"\nwith = { a = \"x\" }\n");
    let lib = small("lib", "[vars]\nA = \"{a}\"\n");
    let start = std::time::Instant::now();
    assert_eq!(expand_errors(&batch, &[app, lib]).len(), 1);
    assert_eq!(expand_errors(&batch, &[small("app", "")]), ["batch.toml:5:7: the batch has no recipe `nothing` (write \"RECIPE/OUTPUT\")"]);
    assert!(start.elapsed() < std::time::Duration::from_secs(5), "{:?}", start.elapsed());
}

/// A small file must not become a large graph.
#[test]
fn text_that_grows_by_expansion_is_bounded() {
    let value = "v".repeat(AXIS_VALUE_BYTES_MAX);
    let batch = batch(&format!("[matrix]\na = [\"{value}\"]\n"));
    let long = small("r", &format!("[vars]\nA = \"{}\"\n", "{a}".repeat(100_000)));
    assert_eq!(expand_errors(&batch, &[long]), ["r.toml:8:5: more than 1048576 bytes, once its axes are expanded"]);
    let many = small("r", &format!("[vars]\nA = \"{}\"\nB = \"{}\"\n", "{a}".repeat(3000), "{a}".repeat(3000)));
    assert!(expand_errors(&batch, &[many])[0].starts_with("r.toml:2:8: `r[a=vvv"));
}

#[test]
fn a_batch_that_is_too_large_is_refused() {
    let values: Vec<String> = (0..10_000).map(|value| format!("\"{value}\"")).collect();
    let batch = batch(&format!("[matrix]\na = [{}]\n", values.join(",")));
    let recipes: Vec<Recipe> = (0..11).map(|number| small(&format!("r{number}"), "[vars]\nA = \"{a}\"\n")).collect();
    assert_eq!(expand_errors(&batch, &recipes), ["batch.toml:2:8: the batch has more than 100000 jobs (submit it in parts)"]);
    let needs = "[[need]]\nrecipe = \"r0\"\n".repeat(500);
    let error = expand_errors(&batch, &[small("a", &needs), small("r0", "")]);
    assert_eq!(error, ["batch.toml:2:8: 2 recipes in 10000 cells, with their needs, are too much for one batch (submit it in parts)"]);
}
