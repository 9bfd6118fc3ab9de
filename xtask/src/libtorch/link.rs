//! The checkout's link `libtorch`, and links in general.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

use super::folder::MARKER;

/// Makes `link` name `target`; `false` if it did already. A real folder there is left alone.
///
/// # Errors
/// If a real folder that is not `target` is in the way, or the link cannot be made.
pub(crate) fn point(link: &Path, target: &Path) -> Result<bool> {
    let target = fs::canonicalize(target)?;
    if fs::canonicalize(link).is_ok_and(|named| named == target) {
        return Ok(false);
    }
    if fs::symlink_metadata(link).is_ok_and(|found| found.is_dir()) && !is_junction(link) {
        bail!("{} is a folder, but not a usable libtorch: move it away and run this again", link.display());
    }
    replace(link, &target).with_context(|| format!("cannot link {} to {}", link.display(), target.display()))?;
    // build.rs watches this file, so that programs are linked again with the new path. A libtorch that is not
    // ours to write to may lack it; its programs are then built for the first time anyway.
    if let Ok(marker) = File::options().append(true).open(link.join(MARKER)) {
        marker.set_modified(SystemTime::now()).context("cannot mark libtorch as changed")?;
    }
    Ok(true)
}

#[cfg(unix)]
fn replace(link: &Path, target: &Path) -> io::Result<()> {
    let fresh = link.with_extension(format!("new-{}", std::process::id()));
    symlink(target, &fresh)?;
    fs::rename(&fresh, link).inspect_err(|_| drop(fs::remove_file(&fresh)))
}

/// A symbolic link.
#[cfg(unix)]
pub(crate) fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(unix)]
fn is_junction(_: &Path) -> bool {
    false
}

/// Windows lets everybody make a junction, symbolic links only some.
#[cfg(windows)]
fn replace(link: &Path, target: &Path) -> io::Result<()> {
    if is_junction(link) {
        fs::remove_dir(link)?;
    }
    // `mklink` does not take the `\\?\` paths that `canonicalize` gives.
    let target = target.to_string_lossy().trim_start_matches(r"\\?\").to_owned();
    let made = std::process::Command::new("cmd").args(["/C", "mklink", "/J"]).arg(link).arg(target).output()?;
    if made.status.success() { Ok(()) } else { Err(io::Error::other(String::from_utf8_lossy(&made.stderr))) }
}

/// A symbolic link to a file.
#[cfg(windows)]
pub(crate) fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(windows)]
fn is_junction(link: &Path) -> bool {
    fs::read_link(link).is_ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_made_once_and_moved_when_the_target_changes() {
        let folder = tempfile::tempdir().unwrap();
        let [link, first, second] = ["libtorch", "first", "second"].map(|name| folder.path().join(name));
        fs::create_dir(&first).unwrap();
        fs::create_dir(&second).unwrap();
        assert!(point(&link, &first).unwrap());
        assert!(!point(&link, &first).unwrap());
        assert!(point(&link, &second).unwrap());
        assert_eq!(fs::canonicalize(&link).unwrap(), fs::canonicalize(&second).unwrap());
        fs::remove_dir(&second).unwrap();
        assert!(point(&link, &first).unwrap(), "a link into nowhere is replaced");
    }

    #[test]
    fn a_real_folder_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let [link, target] = ["libtorch", "target"].map(|name| folder.path().join(name));
        fs::create_dir(&link).unwrap();
        fs::create_dir(&target).unwrap();
        assert!(point(&link, &target).is_err());
        assert!(link.is_dir());
    }
}
