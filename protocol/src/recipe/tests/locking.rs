//! `barn lock` writes hashes and nothing else.

use super::*;

fn lock(file: &str, text: &str, sources: &[usize]) -> String {
    let hashes = sources.iter().map(|number| (*number, SourceHash::Sha256("ab".repeat(32)))).collect();
    lock_edits(file, text, &hashes).unwrap()
}

/// Taking the inserted lines out again gives the text back, byte for byte.
#[test]
fn a_missing_hash_is_inserted_behind_its_urls() {
    let text = "# odd   spacing stays\n[recipe]\nname='a'\n\n[[source]]\n  name = \"x\"\n  urls = [\n    \"https://e.org/x\", # one\n  ] # two\n  unpack = false\n\n[[source]]\nname = \"y\"\npath = \"y\"\n[[source]]\nurls = [\"https://e.org/z\"]";
    let hash = "ab".repeat(32);
    let locked = lock("r.toml", text, &[0, 2]);
    let wanted = text.replace("  ] # two\n", &format!("  ] # two\n  sha256 = \"{hash}\"\n")) + &format!("\nsha256 = \"{hash}\"\n");
    assert_eq!(locked, wanted);
    let blake3 = [(0, SourceHash::Blake3(hash.clone()))].into();
    assert!(lock_edits("r.toml", text, &blake3).unwrap().contains(&format!("blake3 = \"{hash}\"")));
}

#[test]
fn windows_line_ends_and_inline_tables_and_json_are_kept() {
    let crlf = "[[source]]\r\nurls = [\"https://e.org/x\"]\r\nname = \"x\"\r\n";
    assert_eq!(lock("r.toml", crlf, &[0]), crlf.replace("]\r\nname", &format!("]\r\nsha256 = \"{}\"\r\nname", "ab".repeat(32))));
    let inline = "source = [{ name = \"x\", urls = [\"https://e.org/x\"] }, {\n  urls = [\"https://e.org/y\"]\n}]\n";
    let locked = lock("r.toml", inline, &[0, 1]);
    let recipe: toml::Table = locked.parse().unwrap();
    assert_eq!(recipe["source"][0]["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(recipe["source"][1]["sha256"].as_str().unwrap().len(), 64);
    for json in [
        "{\"source\": [{\"urls\": [\"https://e.org/x\"]}]}",
        "{\n  \"source\": [\n    {\n      \"urls\": [\"https://e.org/x\"],\n      \"name\": \"x\"\n    }\n  ]\n}",
    ] {
        let locked: serde_json::Value = serde_json::from_str(&lock("r.json", json, &[0])).unwrap();
        assert_eq!(locked["source"][0]["sha256"].as_str().unwrap().len(), 64);
    }
}

#[test]
fn a_hash_that_is_there_stays_and_what_has_none_is_an_error() {
    assert_eq!(lock("r.toml", LUA, &[0]), LUA);
    let hashes = [(1, SourceHash::Sha256("ab".repeat(32)))].into();
    assert_eq!(lock_edits("r.toml", LUA, &hashes), Err(LockError::NoUrls(1)));
    assert_eq!(LockError::NoUrls(1).to_string(), "[[source]] number 2 has no `urls`, so it has no hash to be written");
    assert!(matches!(lock_edits("r.toml", "[", &hashes), Err(LockError::Syntax(_))));
}

/// What is locked can be read without allowing missing hashes.
#[test]
fn a_locked_recipe_is_whole() {
    let start = LUA.find("sha256").unwrap();
    let end = start + LUA[start..].find('\n').unwrap() + 1;
    let without = format!("{}{}", &LUA[..start], &LUA[end..]);
    parse_recipe("r.toml", &without).unwrap_err();
    let recipe = parse_recipe("r.toml", &lock("r.toml", &without, &[0])).unwrap();
    assert!(matches!(&recipe.sources[0].origin, Origin::Urls { sha256: Some(_), .. }));
}
