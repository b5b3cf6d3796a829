//! Reading named values, and collecting every mistake instead of stopping at the first.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;

use super::variables::VARIABLES;

/// The variables that are set: the process environment over a `.env` file.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The process environment, and below it the `.env` file at `path` if there is one.
    ///
    /// # Errors
    /// A line of the file that cannot be read; the text of the line is not repeated, as it may be a secret.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        let mut values = BTreeMap::new();
        match dotenvy::from_path_iter(path) {
            Ok(lines) => {
                for line in lines {
                    let (name, value) = line.map_err(|error| {
                        Problems::one(&path.display().to_string(), &format!("{} is not NAME=value", place(path, &error)))
                    })?;
                    values.insert(name, value);
                }
            }
            Err(error) if error.not_found() => {}
            Err(_) => return Err(Problems::one(&path.display().to_string(), "the file cannot be read")),
        }
        values
            .extend(std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))));
        Ok(Self(values))
    }

    /// Variables that are set and unknown to us, and whose name is nearly one of ours (probably a typo): each with that name.
    pub fn likely_typos(&self) -> Vec<(&str, &'static str)> {
        let unknown = self.0.keys().filter(|name| VARIABLES.iter().all(|variable| variable.name != name.as_str()));
        unknown.filter_map(|name| Some((name.as_str(), meant(name)?))).collect()
    }

    /// Starts a pass over the variables.
    pub fn reader(&self) -> Reader<'_> {
        Reader { values: &self.0, problems: Vec::new() }
    }
}

/// The variable of ours whose name differs by one letter, or by two if the name is long. No more: the platform has variables of its own.
fn meant(name: &str) -> Option<&'static str> {
    let most = if name.len() < 12 { 1 } else { 2 };
    let distances = VARIABLES.iter().map(|variable| (strsim::damerau_levenshtein(name, variable.name), variable.name));
    distances.min().filter(|(distance, _)| *distance <= most).map(|(_, nearest)| nearest)
}

/// Which line an error is about.
fn place(path: &Path, error: &dotenvy::Error) -> String {
    let dotenvy::Error::LineParse(bad, _) = error else { return "a line".to_owned() };
    let first = bad.lines().next().unwrap_or_default().trim();
    let file = std::fs::read_to_string(path).unwrap_or_default();
    let number = file.lines().position(|line| line.trim() == first);
    number.map_or("a line".to_owned(), |number| format!("line {}", number + 1))
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(pairs: [(&str, &str); N]) -> Self {
        Self(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }
}

impl FromIterator<(String, String)> for Environment {
    /// Of several values of a name, the last one counts.
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

/// One mistake in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The variable.
    pub name: String,
    /// What is wrong and what to do.
    pub text: String,
}

/// Every mistake in the configuration, one line each.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    pub(crate) fn one(name: &str, text: &str) -> Self {
        Self(vec![Problem { name: name.to_owned(), text: text.to_owned() }])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            let end = if n + 1 == self.0.len() { "" } else { "\n" };
            write!(f, "{}: {}{end}", problem.name, problem.text)?;
        }
        Ok(())
    }
}

/// One pass over the variables that remembers what was wrong.
#[derive(Debug)]
pub struct Reader<'a> {
    values: &'a BTreeMap<String, String>,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    /// Ends the pass.
    ///
    /// # Errors
    /// Every problem that was reported.
    pub fn finish(self) -> Result<(), Problems> {
        if self.problems.is_empty() { Ok(()) } else { Err(Problems(self.problems)) }
    }

    pub(super) fn problem(&mut self, name: &str, text: impl Into<String>) {
        self.problems.push(Problem { name: name.to_owned(), text: text.into() });
    }

    /// The value, or its default from the list of variables; `None` when there is neither.
    pub(super) fn optional(&self, name: &str) -> Option<&'a str> {
        let variable = VARIABLES.iter().find(|variable| variable.name == name);
        debug_assert!(variable.is_some(), "{name} is missing in the list of variables");
        match self.values.get(name).map(|value| value.trim()) {
            Some(value) if !value.is_empty() => Some(value),
            _ => variable.and_then(|variable| variable.default),
        }
    }

    /// The name of this pod, if it is one of a Kubernetes `StatefulSet`: then its next run has the same. (The names of a Deployment's
    /// pods end in five characters, those of a `StatefulSet` in a number.)
    pub(super) fn stateful_pod(&self) -> Option<&'a str> {
        self.values.get("KUBERNETES_SERVICE_HOST")?;
        let name = self.values.get("HOSTNAME")?.as_str();
        let (_, ordinal) = name.rsplit_once('-')?;
        let is_ordinal = (1..=4).contains(&ordinal.len()) && ordinal.bytes().all(|byte| byte.is_ascii_digit());
        is_ordinal.then_some(name)
    }

    /// A secret as it is set, blanks included.
    pub(super) fn secret(&mut self, name: &str) -> Option<SecretString> {
        self.required(name)?;
        self.values.get(name).map(|value| SecretString::from(without_line_end(value)))
    }

    pub(super) fn required(&mut self, name: &str) -> Option<&'a str> {
        let value = self.optional(name);
        if value.is_none() {
            self.problem(name, "is not set, and has no default");
        }
        value
    }

    pub(super) fn number<T: Copy + FromStr + PartialOrd + fmt::Display>(&mut self, name: &str, least: T, most: T) -> Option<T> {
        let value = self.required(name)?;
        match value.parse::<T>() {
            Ok(number) if number >= least && number <= most => Some(number),
            _ => {
                self.problem(name, format!("expected a number from {least} to {most}, got {}", shape(value)));
                None
            }
        }
    }

    /// Seconds, with decimals allowed.
    pub(super) fn seconds(&mut self, name: &str, least: f64, most: f64) -> Option<Duration> {
        self.number(name, least, most).map(Duration::from_secs_f64)
    }

    pub(super) fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> Option<T> {
        let value = self.required(name)?;
        let found = choices.iter().find(|(text, _)| text.eq_ignore_ascii_case(value));
        if found.is_none() {
            let names: Vec<_> = choices.iter().map(|(text, _)| *text).collect();
            self.problem(name, format!("expected one of {}, got {}", names.join(", "), shape(value)));
        }
        found.map(|(_, choice)| *choice)
    }

    /// Every variable whose name starts with `prefix`, with the rest of its name.
    pub(super) fn prefixed(&self, prefix: &str) -> Vec<(&'a str, &'a str)> {
        self.values.iter().filter_map(|(name, value)| Some((name.strip_prefix(prefix)?, value.as_str()))).collect()
    }
}

/// A value without the line break at its end: files of secrets end with one, and no password does.
pub(super) fn without_line_end(value: &str) -> &str {
    value.trim_end_matches(['\r', '\n'])
}

/// What a value looks like, without telling it: it may be a password in the wrong place.
pub(super) fn shape(value: &str) -> String {
    let kind = if value.bytes().all(|byte| byte.is_ascii_digit()) {
        "digits"
    } else if value.parse::<f64>().is_ok() {
        "a number"
    } else if value.contains("://") {
        "a URL"
    } else if value.chars().all(char::is_alphabetic) {
        "letters"
    } else {
        "text"
    };
    format!("{kind} ({} characters)", value.chars().count())
}
