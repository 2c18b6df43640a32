//! What is wrong with a configuration, where it was written, and what to do about it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// Most errors that are kept; the rest is counted. A person mends a screenful at a time.
const ERRORS_MAX: usize = 100;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// In a file; line and column count from 1.
    File {
        /// The file's name as given.
        file: Arc<str>,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
    },
    /// In a flag or the environment variable that stands for it.
    Flag {
        /// The flag, with its dashes.
        flag: &'static str,
        /// The environment variable.
        variable: &'static str,
    },
    /// In an environment variable that has no flag.
    Variable(Cow<'static, str>),
    /// The name of the host.
    HostName,
    /// Nowhere: it is missing, or a default.
    Nowhere,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::Flag { flag, variable } => write!(f, "{flag} (or {variable})"),
            Self::Variable(name) => f.write_str(name),
            Self::HostName => f.write_str("host name"),
            Self::Nowhere => f.write_str("configuration"),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct ConfigError {
    /// Where it was written.
    pub origin: Origin,
    /// The key, such as `rules[0].windows[1]`; empty for the whole.
    pub key: String,
    /// What is wrong. Never holds a secret.
    pub problem: String,
    /// What to do; empty when the problem says it.
    pub remedy: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

/// Everything that is wrong, in the order of the file, then of flags and variables. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct ConfigErrors {
    errors: Vec<ConfigError>,
    omitted: usize,
}

impl ConfigErrors {
    /// The errors; the first hundred if there are more.
    #[must_use]
    pub fn as_slice(&self) -> &[ConfigError] {
        &self.errors
    }

    /// How many more there are.
    #[must_use]
    pub fn omitted(&self) -> usize {
        self.omitted
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self {
            errors: vec![error],
            omitted: 0,
        }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        if self.omitted > 0 {
            write!(f, "\nand {} more", self.omitted)?;
        }
        Ok(())
    }
}

/// Collects errors while the rest is read on.
#[derive(Debug, Default)]
pub(super) struct Report {
    errors: std::cell::RefCell<Vec<ConfigError>>,
}

impl Report {
    /// Notes an error.
    pub(super) fn push(&self, error: ConfigError) {
        self.errors.borrow_mut().push(error);
    }

    /// Notes that the value at `at` is wrong.
    pub(super) fn wrong(&self, at: &At, problem: impl Into<String>, remedy: impl Into<String>) {
        self.push(ConfigError {
            origin: at.origin.clone(),
            key: at.key.clone(),
            problem: problem.into(),
            remedy: remedy.into(),
        });
    }

    /// The errors noted, sorted by where they were written, or `None`.
    pub(super) fn into_errors(self) -> Option<ConfigErrors> {
        let mut errors = self.errors.into_inner();
        errors.sort_by(|a, b| a.origin.cmp(&b.origin));
        let omitted = errors.len().saturating_sub(ERRORS_MAX);
        errors.truncate(ERRORS_MAX);
        (!errors.is_empty()).then_some(ConfigErrors { errors, omitted })
    }
}

/// The place of a value: where it was written and the key it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct At {
    /// Where it was written.
    pub(super) origin: Origin,
    /// Its key.
    pub(super) key: String,
}

impl At {
    /// The place of `key` in the section at this place.
    pub(super) fn child(&self, key: &str) -> Self {
        let key = match self.key.as_str() {
            "" => key.to_owned(),
            parent => format!("{parent}.{key}"),
        };
        Self {
            origin: self.origin.clone(),
            key,
        }
    }
}

/// The name of `names`, which are in lower case, that `text` was most likely meant to be.
pub fn nearest<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let text = text.to_lowercase();
    let distance = |name: &str| strsim::damerau_levenshtein(&text, name);
    let (wrong, name) = names
        .into_iter()
        .filter(|name| name.len().abs_diff(text.len()) <= 3)
        .map(|name| (distance(name), name))
        .min()?;
    // A third of the letters wrong is a slip of the hand; more is another word.
    (wrong * 3 <= name.len().max(3)).then_some(name)
}

/// [`nearest`], as a remedy; empty when none is near.
pub(super) fn did_you_mean<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    nearest(text, names).map_or_else(String::new, |name| format!("did you mean `{name}`?"))
}
