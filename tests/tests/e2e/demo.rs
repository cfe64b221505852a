//! `barn demo`, as a newcomer sees it, and as a script does.

use std::process::Command;

use barnraiser_tests::{list, program, text};
use serde_json::Value;

/// Runs the demo with the `barn` in `programs`, in an empty environment, and gives its document.
fn demo(programs: &std::path::Path) -> Value {
    let output = Command::new(programs.join("barn")).args(["demo", "--json"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}\n{said}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&document["kind"], &document["version"], &document["held"]), (&"demo".into(), &1.into(), &true.into()));
    document
}

#[test]
fn demo_names_the_cheater_and_serves_an_image_that_runs() {
    let report = demo(program("barn").unwrap().parent().unwrap());
    let jobs = list(&report["jobs"]);
    assert!(jobs.len() >= 5, "{report:#}");
    for job in jobs {
        assert_eq!(job["state"], "cross-verified", "{job:#}");
        assert!(list(&job["verdict"]["agreeing"]).len() >= 2, "{job:#}");
        // What the cheater attested differs from what all others did.
        let right = &job["verdict"]["outcome"];
        for result in list(&job["results"]) {
            assert_eq!(result["builder"] == "mallory", result["wrong"] == true, "{result:#} against {right:#}");
        }
    }
    assert_eq!(report["cheater"]["name"], "mallory");
    assert!(!list(&report["cheater"]["evidence"]).is_empty());
    assert_eq!((&report["release"]["threshold"], list(&report["release"]["signed_by"]).len()), (&2.into(), 2));
    let image = &report["image"];
    assert_eq!(text(&image["blake3"]).unwrap(), text(&image["asked_for"]).unwrap());
    let several = list(&image["served"]).iter().filter(|served| served["share"].as_f64() >= Some(0.2)).count();
    assert!(several >= 2, "{image:#}");
    assert!(list(&report["programs"]).iter().all(|run| run["right"] == true));
}

/// Longer than `make test` should take: it is the same demo, once more.
#[test]
fn demo_without_the_tampering_program_goes_on_with_honest_builders() {
    if std::env::var_os("BARN_LONG").is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for name in ["barn", "barn-bootstrap"] {
        std::fs::copy(program(name).unwrap(), folder.path().join(name)).unwrap();
    }
    let report = demo(folder.path());
    assert!(report["cheater"].is_null());
    assert!(list(&report["jobs"]).iter().all(|job| job["state"] == "cross-verified"));
}
