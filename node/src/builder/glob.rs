//! Glob patterns of paths: `*`, `?` and `[…]` within a part, `**` for any number of whole parts.
//!
//! Wildcards also match names that begin with a dot: an artefact has no hidden files. Matching takes time in proportion
//! to pattern × path, whatever the pattern, so a hostile recipe cannot stall a node.

/// Whether `pattern` has a wildcard; where it has none, it names one path.
pub fn is_glob(pattern: &str) -> bool {
    pattern.contains(['*', '?', '['])
}

/// The leading parts of `pattern` that have no wildcard, and the rest: `lib/x86/*.so` is `lib/x86` and `*.so`.
pub fn split_base(pattern: &str) -> (&str, &str) {
    let mut start = 0;
    for part in pattern.split('/') {
        if is_glob(part) {
            break;
        }
        start += part.len() + 1;
    }
    if start == 0 {
        return ("", pattern);
    }
    let base = pattern.get(..start - 1).unwrap_or(pattern);
    (base, pattern.get(start..).unwrap_or(""))
}

/// Whether the whole of `path` matches `pattern`.
pub fn matches(pattern: &str, path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    // reachable[i]: the first i parts of the path match the pattern so far.
    let mut reachable = vec![false; parts.len() + 1];
    reachable[0] = true;
    for piece in pattern.split('/') {
        let mut next = vec![false; parts.len() + 1];
        if piece == "**" {
            let mut any = false;
            for (slot, &before) in next.iter_mut().zip(&reachable) {
                any |= before;
                *slot = any;
            }
        } else {
            for (i, part) in parts.iter().enumerate() {
                next[i + 1] = reachable[i] && part_matches(piece.as_bytes(), part.as_bytes());
            }
        }
        reachable = next;
    }
    reachable[parts.len()]
}

/// Whether `path` or a folder above it matches one of `patterns`; no pattern means that all do.
pub fn selected(patterns: &[String], path: &str) -> bool {
    patterns.is_empty()
        || patterns.iter().any(|pattern| {
            let above = path.match_indices('/').map(|(at, _)| &path[..at]);
            above.chain([path]).any(|candidate| matches(pattern, candidate))
        })
}

/// One part: the usual two-pointer walk, which goes back to the last `*` only, so it never explodes.
fn part_matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if let Some(width) = pattern.get(p..).and_then(|rest| one_matches(rest, &text[t..])) {
            p += width.0;
            t += width.1;
        } else if let Some((at, from)) = star {
            p = at + 1;
            t = from + 1;
            star = Some((at, t));
        } else {
            return false;
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|&b| b == b'*'))
}

/// One wildcard or character against the beginning of `text`: how many bytes of each it takes.
fn one_matches(pattern: &[u8], text: &[u8]) -> Option<(usize, usize)> {
    let width = char_width(text);
    match pattern.first()? {
        b'?' => Some((1, width)),
        b'[' => match class_end(pattern) {
            Some(end) => class_matches(&pattern[1..end], text[0]).then_some((end + 1, width)),
            // An unclosed bracket is an ordinary character.
            None => (text[0] == b'[').then_some((1, 1)),
        },
        &byte => (byte == text[0]).then_some((1, 1)),
    }
}

fn char_width(text: &[u8]) -> usize {
    let follow = text.iter().skip(1).take_while(|&&b| b & 0xc0 == 0x80).count();
    1 + follow.min(3)
}

fn class_end(pattern: &[u8]) -> Option<usize> {
    // A `]` right behind the opening (or the negation) belongs to the class.
    let first = if matches!(pattern.get(1), Some(b'!' | b'^')) { 3 } else { 2 };
    (first..pattern.len()).find(|&i| pattern[i] == b']')
}

fn class_matches(class: &[u8], byte: u8) -> bool {
    let (negated, mut class) = match class.first() {
        Some(b'!' | b'^') => (true, &class[1..]),
        _ => (false, class),
    };
    let mut found = false;
    while let Some(&low) = class.first() {
        if let (Some(b'-'), Some(&high)) = (class.get(1), class.get(2)) {
            found |= (low..=high).contains(&byte);
            class = &class[3..];
        } else {
            found |= low == byte;
            class = &class[1..];
        }
    }
    found != negated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_as_in_a_shell() {
        for (pattern, path, wanted) in [
            ("*.so", "libz.so", true),
            ("*.so", "lib/libz.so", false),
            ("**/*.so", "libz.so", true),
            ("**/*.so", "a/b/libz.so", true),
            ("lib/**", "lib/a/b", true),
            ("lib/**", "bin/a", false),
            ("a/**/z", "a/z", true),
            ("a/**/z", "a/b/c/z", true),
            ("a?c", "abc", true),
            ("a?c", "añc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]", "]", true),
            ("[", "[", true),
            ("*a*b*", "xxaxxbxx", true),
            ("", "a", false),
            (".*", ".hidden", true),
        ] {
            assert_eq!(matches(pattern, path), wanted, "{pattern} {path}");
        }
    }

    #[test]
    fn base_is_all_parts_before_the_first_wildcard() {
        assert_eq!(split_base("lib/x86/*.so"), ("lib/x86", "*.so"));
        assert_eq!(split_base("*.so"), ("", "*.so"));
        assert_eq!(split_base("a/b*/c"), ("a", "b*/c"));
        assert_eq!(split_base("a/b"), ("a/b", ""));
    }

    #[test]
    fn a_selected_folder_selects_what_is_in_it() {
        assert!(selected(&["lib".into()], "lib/a/b"));
        assert!(selected(&[], "x"));
        assert!(!selected(&["lib".into()], "library"));
    }

    /// Patterns that make a backtracking matcher run for ages.
    #[test]
    fn hostile_patterns_take_no_time() {
        let text = "a".repeat(200);
        assert!(!part_matches(format!("{}b", "*a".repeat(100)).as_bytes(), text.as_bytes()));
        let path = vec!["a"; 200].join("/");
        assert!(!matches(&format!("{}b", "**/".repeat(100)), &path));
    }
}
