//! Patterns of paths: `*` and `?` within a part of a path, `**` for any number of parts.

/// A pattern. One that names a folder means everything in it too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    parts: Vec<String>,
}

impl Pattern {
    /// The pattern that `text` writes down. `*` stands for any characters but `/`, `?` for one of them, a part `**` for any
    /// number of parts; everything else stands for itself. A `/` at the end changes nothing.
    pub fn new(text: &str) -> Self {
        Self { parts: text.trim_end_matches('/').split('/').map(str::to_owned).collect() }
    }

    /// Whether it fits `path`, or a folder around it.
    pub fn matches(&self, path: &str) -> bool {
        let path: Vec<&str> = path.split('/').collect();
        let parts: Vec<&str> = self.parts.iter().map(String::as_str).collect();
        (1..=path.len()).any(|depth| fits(&parts, &path[..depth], |part| *part == "**", |part, name| part_fits(part, name)))
    }
}

fn part_fits(part: &str, name: &str) -> bool {
    let (part, name): (Vec<char>, Vec<char>) = (part.chars().collect(), name.chars().collect());
    fits(&part, &name, |c| *c == '*', |p, c| *p == '?' || p == c)
}

/// Whether `pattern` fits all of `items`, where `many` marks what stands for any number of items. Goes back to the last
/// such mark only, which is enough and takes no more than the product of both lengths.
fn fits<P, I>(pattern: &[P], items: &[I], many: impl Fn(&P) -> bool, one: impl Fn(&P, &I) -> bool) -> bool {
    let (mut at, mut item) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while item < items.len() {
        if pattern.get(at).is_some_and(&many) {
            back = Some((at + 1, item));
            at += 1;
        } else if pattern.get(at).is_some_and(|part| one(part, &items[item])) {
            at += 1;
            item += 1;
        } else if let Some((after, from)) = back {
            at = after;
            item = from + 1;
            back = Some((after, item));
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(many)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_what_they_say() {
        let yes = [
            ("lib/**", "lib/a"),
            ("lib/**", "lib/a/b"),
            ("lib", "lib/a/b"),
            ("lib/", "lib/a"),
            ("**/*.so", "a/b/c.so"),
            ("**/*.so", "c.so"),
            ("a/**/z", "a/z"),
            ("a/**/z", "a/b/c/z"),
            ("*.h", "x.h"),
            ("li?/x*y", "lib/x12y"),
            ("**", "a"),
            ("a*b*c", "aXbbYc"),
        ];
        for (pattern, path) in yes {
            assert!(Pattern::new(pattern).matches(path), "{pattern} {path}");
        }
        let no =
            [("lib/**", "library/a"), ("*.h", "a/x.h"), ("lib/*.so", "lib/a/b.so"), ("?", "ab"), ("a/b", "a"), ("", "a"), ("[a]", "a")];
        for (pattern, path) in no {
            assert!(!Pattern::new(pattern).matches(path), "{pattern} {path}");
        }
    }

    /// A pattern of many stars must not take exponential time.
    #[test]
    fn many_stars_take_no_time() {
        assert!(!Pattern::new(&"*a".repeat(200)).matches(&"a".repeat(199)));
        assert!(!Pattern::new(&"**/a/".repeat(200)).matches(&"a/".repeat(150)));
    }
}
