//! Who is measured: our release binary, another build of it, or a contender in Python. All get the same variables.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use anyhow::Context as _;

/// The program, built beside this one.
pub(crate) static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    let own = std::env::current_exe().unwrap_or_default();
    own.with_file_name("trigger-dispatcher")
});

/// How a subject shows that it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It keeps its progress in the schema `dispatcher`.
    Dispatcher,
    /// It prints the line `ready`, and commits offsets.
    Contender,
}

/// A program that can be started.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// The program that makes the schema `dispatcher`.
    pub(crate) migrate: PathBuf,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// The processors that it may use, as `taskset` reads them; all of them when there is none.
    cores: Option<String>,
}

impl Subject {
    /// What was built from this checkout.
    pub(crate) fn ours() -> Self {
        Self::build("dispatcher", &PROGRAM)
    }

    /// Another build of the dispatcher.
    pub(crate) fn build(name: &str, program: &Path) -> Self {
        Self {
            name: name.to_owned(),
            kind: Kind::Dispatcher,
            migrate: program.to_owned(),
            program: program.to_owned(),
            arguments: vec!["run".to_owned()],
            environment: Vec::new(),
            cores: None,
        }
    }

    /// Who asks no database (floor.rs).
    pub(crate) fn floor() -> anyhow::Result<Self> {
        let program = std::env::current_exe()?;
        Ok(Self {
            kind: Kind::Contender,
            migrate: PROGRAM.clone(),
            arguments: vec!["floor".to_owned()],
            ..Self::build("floor", &program)
        })
    }

    /// A module of bench/reference.
    pub(crate) fn contender(name: &str, python: &Path, module: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind: Kind::Contender,
            migrate: PROGRAM.clone(),
            program: python.to_owned(),
            arguments: vec!["-m".to_owned(), module.to_owned()],
            environment: vec![("PYTHONPATH".to_owned(), reference().display().to_string())],
            cores: None,
        }
    }

    /// The same with other variables.
    pub(crate) fn with(mut self, changes: &[(String, String)]) -> Self {
        self.environment.extend_from_slice(changes);
        self
    }

    /// The same on some processors only.
    pub(crate) fn on(mut self, cores: &str) -> Self {
        self.cores = Some(cores.to_owned());
        self
    }

    /// The process to be started, with an empty environment but for its own variables: nothing of a developer's may join in.
    pub(crate) fn command(&self) -> Command {
        let mut command = pinned(&self.program, self.cores.as_deref());
        command.args(&self.arguments).env_clear().envs(self.environment.iter().cloned()).current_dir(std::env::temp_dir());
        command
    }
}

/// A command that runs on some processors only.
pub(crate) fn pinned(program: &Path, cores: Option<&str>) -> Command {
    match cores {
        None => Command::new(program),
        Some(cores) => {
            // It becomes the program, so that the pid is the program's.
            let mut command = Command::new("taskset");
            command.args(["--cpu-list", cores]).arg(program);
            command
        }
    }
}

fn reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("reference")
}

/// The Python that has the contenders' packages; they are fetched if they are missing.
pub(crate) fn python() -> anyhow::Result<PathBuf> {
    let setup = reference().join("setup");
    let output = Command::new(&setup).output().with_context(|| format!("cannot run {}", setup.display()))?;
    anyhow::ensure!(output.status.success(), "bench/reference/setup failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    let text = String::from_utf8(output.stdout).context("what bench/reference/setup says")?;
    Ok(PathBuf::from(text.lines().last().context("bench/reference/setup says nothing")?))
}

/// Reads `NAME=VALUE`.
pub(crate) fn change(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A variable and its value.
pub(crate) fn set(name: &str, value: impl std::fmt::Display) -> (String, String) {
    (name.to_owned(), value.to_string())
}
