//! The Python interpreters of this machine, and what is installed in them, without importing any of it.

use std::env;
use std::ffi::OsString;
use std::process::Command;

/// The interpreters to ask, best first: the one named by `IPA_PYTHON`, then those on the path.
pub(crate) fn interpreters() -> Vec<OsString> {
    env::var_os("IPA_PYTHON").into_iter().chain(["python3".into(), "python".into()]).collect()
}

/// The version of an installed distribution, without its local part (`2.11.0+cu130` is `2.11.0`).
pub(crate) fn installed_version(python: &OsString, distribution: &str) -> Option<String> {
    let version = ask(python, "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))", distribution)?;
    Some(public_version(&version).to_owned())
}

/// What a one-line script prints when it succeeds.
pub(crate) fn ask(python: &OsString, script: &str, argument: &str) -> Option<String> {
    let output = Command::new(python).args(["-c", script, argument]).output().ok()?;
    let answer = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| answer.trim().to_owned()).filter(|answer| !answer.is_empty())
}

/// A version without its local part.
pub(crate) fn public_version(version: &str) -> &str {
    version.split('+').next().unwrap_or(version).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_versions_are_the_public_one() {
        assert_eq!(public_version("2.11.0+cu130\n"), "2.11.0");
        assert_eq!(public_version("2.11.0"), "2.11.0");
    }

    #[test]
    fn an_interpreter_that_is_not_there_answers_nothing() {
        assert_eq!(installed_version(&"no-such-python".into(), "torch"), None);
    }
}
