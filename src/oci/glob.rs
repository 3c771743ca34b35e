//! Patterns with stars. Matching takes time in proportion to pattern times text, whatever they are.

/// A pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Vec<Part>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Byte(u8),
    /// Any bytes but slashes.
    Star,
    /// Any bytes.
    Stars,
}

impl Glob {
    /// A pattern in which a star stands for anything.
    pub fn of_names(pattern: &str) -> Glob {
        Glob(pattern.bytes().map(|byte| if byte == b'*' { Part::Stars } else { Part::Byte(byte) }).collect())
    }

    /// A pattern in which a star stops at a slash, and two of them do not.
    pub fn of_paths(pattern: &str) -> Glob {
        let mut parts = Vec::new();
        for byte in pattern.bytes() {
            match (byte, parts.last_mut()) {
                (b'*', Some(star @ (Part::Star | Part::Stars))) => *star = Part::Stars,
                (b'*', _) => parts.push(Part::Star),
                (byte, _) => parts.push(Part::Byte(byte)),
            }
        }
        Glob(parts)
    }

    /// Whether all of the text is as the pattern says.
    pub fn matches(&self, text: &str) -> bool {
        // At which places of the pattern one may be, after so much of the text.
        let mut places = vec![false; self.0.len() + 1];
        places[0] = true;
        self.skip_stars(&mut places);
        for byte in text.bytes() {
            let mut next = vec![false; places.len()];
            for (place, part) in self.0.iter().enumerate().filter(|(place, _)| places[*place]) {
                match part {
                    Part::Byte(expected) if *expected == byte => next[place + 1] = true,
                    Part::Star if byte != b'/' => next[place] = true,
                    Part::Stars => next[place] = true,
                    _ => {}
                }
            }
            self.skip_stars(&mut next);
            places = next;
        }
        places.last().copied().unwrap_or_default()
    }

    /// Stars may stand for nothing.
    fn skip_stars(&self, places: &mut [bool]) {
        for (place, part) in self.0.iter().enumerate() {
            if places[place] && !matches!(part, Part::Byte(_)) {
                places[place + 1] = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_in_a_path_stops_at_a_slash_and_two_do_not() {
        for (pattern, text, expected) in [
            ("registry.example/acme/app", "registry.example/acme/app", true),
            ("registry.example/acme/app", "registry.example/acme/apps", false),
            ("registry.example/acme/app", "registry.example/acme/ap", false),
            ("registry.example/acme/*", "registry.example/acme/app", true),
            ("registry.example/acme/*", "registry.example/acme/", true),
            ("registry.example/acme/*", "registry.example/acme", false),
            ("registry.example/acme/*", "registry.example/acme/a/b", false),
            ("registry.example/acme/**", "registry.example/acme/a/b", true),
            ("registry.example/acme/**", "registry.example/acme2/a", false),
            ("registry.example/*/app", "registry.example/acme/app", true),
            ("registry.example/*/app", "registry.example/a/b/app", false),
            ("registry.example/**/app", "registry.example/a/b/app", true),
            ("registry.example/a*b*c", "registry.example/aXbYbZc", true),
            ("registry.example/a*b*c", "registry.example/aXbYbZ", false),
            ("**", "registry.example/acme/app", true),
            ("***", "registry.example/acme/app", true),
            ("*", "registry.example/acme/app", false),
            ("*/app", "registry.example/app", true),
            ("", "a", false),
            ("", "", true),
        ] {
            assert_eq!(Glob::of_paths(pattern).matches(text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_star_in_a_name_is_anything() {
        for (pattern, text, expected) in [
            ("repo:acme/*", "repo:acme/app:ref:refs/heads/main", true),
            ("repo:acme/*:ref:refs/heads/main", "repo:acme/app:ref:refs/heads/main", true),
            ("repo:acme/*", "repo:acme2/app", false),
            ("ci-*", "ci-", true),
            ("ci-*", "ci", false),
            ("CI-*", "ci-1", false),
            ("*", "", true),
        ] {
            assert_eq!(Glob::of_names(pattern).matches(text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_no_more_than_their_time() {
        let pattern = format!("{}b", "*a".repeat(100));
        assert!(!Glob::of_names(&pattern).matches(&"a".repeat(255)));
    }
}
