//! The same targets under libFuzzer, which coverage guides: `make fuzz-guided` builds this with cargo-fuzz, and names the target in
//! `BARN_FUZZ_TARGET`. Compiled by anything else it does nothing.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    static TARGET: std::sync::OnceLock<&barnraiser_fuzz::Target> = std::sync::OnceLock::new();
    let named = || {
        let name = std::env::var("BARN_FUZZ_TARGET").unwrap_or_default();
        barnraiser_fuzz::targets::find(&name).unwrap_or_else(|| panic!("BARN_FUZZ_TARGET names no target: {name:?}"))
    };
    let target = TARGET.get_or_init(named);
    if bytes.len() <= target.bytes_max {
        (target.run)(bytes);
    }
});

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("this is run by `make fuzz-guided`");
}
