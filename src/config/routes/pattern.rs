//! Regular expressions over whole texts, and what to put in the place of what they match.

use std::fmt;

use regex::bytes::{Captures, Regex, RegexBuilder};
use thiserror::Error;

/// Longest pattern or replacement: far above any that a person writes.
const TEXT_BYTES_MAX: usize = 1024;

/// Most bytes of a compiled pattern. Matching takes time in proportion to this and to the text.
const COMPILED_BYTES_MAX: usize = 64 * 1024;

/// Most bytes that each thread keeps of a pattern to match it faster.
const CACHE_BYTES_MAX: usize = 256 * 1024;

/// A regular expression that matches a text as a whole or not at all, in time linear in the text. Works on
/// bytes: `.` and classes mean single bytes, `\d` and `\w` ASCII.
///
/// Clones share what was compiled, 6 to 20 KB, and have caches of their own. All workers match with one clone; each
/// that does keeps a cache of 2 to 14 KB in it, and all but the first take a lock of the `regex` crate's, one of eight
/// by thread, for 5 to 8 ns a match. A clone for each worker would save these, and cost a copy of all routes.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

/// Why a text is no pattern or no replacement.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct PatternError(pub(super) String);

impl Pattern {
    /// Reads the syntax of the `regex` crate.
    ///
    /// # Errors
    /// When `text` is too long, no regular expression, or too large once compiled.
    pub fn try_new(text: &str) -> Result<Self, PatternError> {
        check_length(text)?;
        // Alone first: `a)|(b` is not to become valid by what is put around it.
        compile(text)?;
        Ok(Self {
            text: text.to_owned(),
            regex: compile(&format!(r"\A(?:{text})\z"))?,
        })
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it matches the whole of `text`.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        self.regex.is_match(text)
    }

    /// The number of the group `name`, which is a name or a number; 0 is the whole.
    fn group(&self, name: &str) -> Option<usize> {
        let by_name = || self.regex.capture_names().position(|group| group == Some(name));
        let number = name
            .parse()
            .ok()
            .filter(|number| *number < self.regex.captures_len());
        number.or_else(by_name)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.text).finish()
    }
}

/// A text with references to the groups of a pattern: `$1`, `${1}`, `${name}`; `$$` is a dollar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Group(usize),
}

impl Replacement {
    /// Reads a replacement for what `pattern` matches.
    ///
    /// # Errors
    /// When it is too long, a reference is malformed, or `pattern` has no such group.
    pub fn try_new(text: &str, pattern: &Pattern) -> Result<Self, PatternError> {
        check_length(text)?;
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            parts.push(Part::Literal(before.to_owned()));
            let (part, behind) = reference(after, pattern)?;
            parts.push(part);
            rest = behind;
        }
        parts.push(Part::Literal(rest.to_owned()));
        parts.retain(|part| !matches!(part, Part::Literal(text) if text.is_empty()));
        Ok(Self {
            text: text.to_owned(),
            parts,
        })
    }

    /// The replacement as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What stands in the place of `text`; `None` when `pattern` does not match it. `pattern` is the one that
    /// this was read for.
    #[must_use]
    pub fn expand(&self, pattern: &Pattern, text: &str) -> Option<String> {
        let captures = pattern.regex.captures(text.as_bytes())?;
        let mut expanded = String::with_capacity(self.text.len() + text.len());
        for part in &self.parts {
            expanded.push_str(match part {
                Part::Group(group) => captured(&captures, *group, text),
                Part::Literal(literal) => literal,
            });
        }
        Some(expanded)
    }
}

/// A group that took no part is empty; so is one that ends within a character.
fn captured<'t>(captures: &Captures<'_>, group: usize, text: &'t str) -> &'t str {
    let range = captures.get(group).map_or(0..0, |found| found.range());
    text.get(range).unwrap_or_default()
}

/// Reads what stands behind a dollar, and answers what stands behind that.
fn reference<'t>(after: &'t str, pattern: &Pattern) -> Result<(Part, &'t str), PatternError> {
    if let Some(behind) = after.strip_prefix('$') {
        return Ok((Part::Literal("$".to_owned()), behind));
    }
    let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
    let (name, behind) = braced.unwrap_or_else(|| {
        let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        after.split_at(end)
    });
    if name.is_empty() {
        let problem = "a dollar refers to a group, as `$1` or `${name}`; write `$$` for the dollar itself";
        return Err(PatternError(problem.to_owned()));
    }
    match pattern.group(name) {
        Some(group) => Ok((Part::Group(group), behind)),
        None => Err(PatternError(format!("`{}` has no group `{name}`", pattern.text))),
    }
}

fn check_length(text: &str) -> Result<(), PatternError> {
    if text.len() > TEXT_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(PatternError("the text is too long or unprintable".to_owned()));
    }
    Ok(())
}

fn compile(text: &str) -> Result<Regex, PatternError> {
    RegexBuilder::new(text)
        .unicode(false)
        .size_limit(COMPILED_BYTES_MAX)
        .dfa_size_limit(CACHE_BYTES_MAX)
        .build()
        .map_err(|error| {
            PatternError(match error {
                regex::Error::CompiledTooBig(_) => {
                    "the pattern is too large once its repetitions are unfolded".to_owned()
                }
                // The parser draws a picture; its last line says what is wrong.
                other => {
                    let text = other.to_string();
                    let last = text.lines().last().unwrap_or_default();
                    last.trim_start_matches("error: ").to_owned()
                }
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::try_new(text).unwrap()
    }

    #[test]
    fn a_pattern_matches_the_whole_text_or_nothing() {
        let digits = pattern("/v[0-9]+|/beta");
        for (text, matches) in [
            ("/v12", true),
            ("/beta", true),
            ("/v12/x", false),
            ("x/v1", false),
            ("/v1\n", false),
        ] {
            assert_eq!(digits.matches(text.as_bytes()), matches, "{text:?}");
        }
        // The shorter alternative does not hide the one that matches all.
        assert!(pattern("a|ab").matches(b"ab"));
        assert!(pattern("(?i)/API").matches(b"/api"));
        assert!(pattern("(?m)^a$").matches(b"a") && !pattern("(?m)^a$").matches(b"a\nb"));
    }

    #[test]
    fn what_is_no_pattern_is_told_in_one_line() {
        for (text, problem) in [
            ("a)|(b", "unopened group"),
            ("[", "unclosed character class"),
            (r"\p{Greek}", "Unicode not allowed here"),
            (
                "(?:[a-z]{999}){99}",
                "the pattern is too large once its repetitions are unfolded",
            ),
            ("a\nb", "the text is too long or unprintable"),
            (&"a".repeat(1025), "the text is too long or unprintable"),
        ] {
            assert_eq!(Pattern::try_new(text).unwrap_err().to_string(), problem, "{text}");
        }
    }

    #[test]
    fn a_replacement_refers_to_groups_that_exist() {
        let users = pattern("/users/([0-9]+)(?P<rest>/.*)?");
        let expand = |text: &str, path: &str| {
            let replacement = Replacement::try_new(text, &users);
            replacement.map(|replacement| replacement.expand(&users, path))
        };
        for (text, path, expected) in [
            ("/u/$1", "/users/7", Some("/u/7")),
            ("/u/${1}0${rest}", "/users/7/a", Some("/u/70/a")),
            ("/u/$1$2", "/users/7", Some("/u/7")),
            ("/$$/$0", "/users/7", Some("/$//users/7")),
            ("/u", "/users/x", None),
        ] {
            assert_eq!(
                expand(text, path),
                Ok(expected.map(str::to_owned)),
                "{text} {path}"
            );
        }
        let wrong = |text| expand(text, "").unwrap_err().to_string();
        assert_eq!(wrong("/$3"), "`/users/([0-9]+)(?P<rest>/.*)?` has no group `3`");
        assert_eq!(
            wrong("/${tail}"),
            "`/users/([0-9]+)(?P<rest>/.*)?` has no group `tail`"
        );
        for text in ["/$", "/$x", "/${", "/${}"] {
            assert!(wrong(text).starts_with("a dollar refers to a group"), "{text}");
        }
    }
}
