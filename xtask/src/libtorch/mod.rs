//! Finds or gets libtorch and links it from the checkout, where `.cargo/config.toml` tells builds to look.
//!
//! Order of trust: a `LIBTORCH` that the user set; what the checkout's link already names; an installed Python
//! torch; the folder in the user's cache, downloaded if it is not there. A folder counts only when its headers
//! say the right version and its libraries are there.

mod download;
mod elf;
mod folder;
mod installed;
mod link;
mod platform;
mod unpack;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::cargo::checkout;
use platform::Platform;

/// The libtorch that the `tch` of this workspace is made for.
pub(crate) const VERSION: &str = "2.11.0";

/// How much of libtorch is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parts {
    /// What every program is linked with.
    Cpu,
    /// Also the CUDA backend, which a program looks for when it starts.
    WithCuda,
}

/// `cargo xtask libtorch [--cuda]`.
pub(crate) fn run(args: &[OsString]) -> Result<ExitCode> {
    let parts = match args {
        [] => Parts::Cpu,
        [flag] if flag == "--cuda" => Parts::WithCuda,
        _ => {
            eprintln!("error: the only argument of `cargo xtask libtorch` is --cuda");
            return Ok(ExitCode::from(2));
        }
    };
    set_up(parts)?;
    Ok(ExitCode::SUCCESS)
}

/// Makes the checkout's `libtorch` name a whole libtorch, and says what it did.
pub(crate) fn set_up(parts: Parts) -> Result<()> {
    let start = Instant::now();
    let link = checkout().join("libtorch");
    let (how, target) = find_or_get(&link, parts)?;
    let linked = link::point(&link, &target)?;
    let cuda = if folder::has_cuda(&target) { "with CUDA parts" } else { "CPU parts" };
    println!(
        "libtorch {VERSION} ({cuda}) {how}: {}{} ({:.1} s)",
        target.display(),
        if linked { ", now linked from this checkout" } else { "" },
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

fn find_or_get(link: &Path, parts: Parts) -> Result<(&'static str, PathBuf)> {
    if let Some(folder) = user_set(link) {
        return accept_user_set(&folder, parts).map(|target| ("from LIBTORCH", target));
    }
    let satisfies = |folder: &Path| parts == Parts::Cpu || folder::has_cuda(folder);
    if folder::check(link).is_ok() && satisfies(link) {
        return Ok(("already linked", fs::canonicalize(link)?));
    }
    let platform = Platform::here()?;
    let cache = cache()?;
    // Two checkouts being set up at once would otherwise fetch the same wheels into the same folder.
    let lock = fs::File::create(cache.join("lock")).context("cannot make the lock file")?;
    lock.lock().context("cannot lock libtorch's cache")?;
    if let Some(folder) = installed::find(&cache, platform).filter(|folder| satisfies(folder)) {
        return Ok(("of an installed Python torch", folder));
    }
    let folder = cache.join(format!("libtorch-{VERSION}-{}", platform.name()));
    let cuda_missing = parts == Parts::WithCuda && !folder::has_cuda(&folder);
    if folder::is_finished(&folder) && folder::check(&folder).is_ok() && !cuda_missing {
        return Ok(("found in the cache", folder));
    }
    if parts == Parts::WithCuda && !platform.wheel_has_cuda() {
        bail!("the published wheel for {} has no CUDA parts: set LIBTORCH to a CUDA build", platform.name());
    }
    download::fetch(&cache, &folder, platform, parts).with_context(|| {
        format!(
            "cannot get libtorch {VERSION} with pip: connect to the network, or set LIBTORCH to an unpacked libtorch \
             {VERSION}, or install Python's torch {VERSION}, and run this again"
        )
    })?;
    Ok(("downloaded", folder))
}

/// `LIBTORCH`, unless it is only what cargo read from this checkout's `.cargo/config.toml`.
fn user_set(link: &Path) -> Option<PathBuf> {
    env::var_os("LIBTORCH").filter(|value| !value.is_empty()).map(PathBuf::from).filter(|folder| folder != link)
}

fn accept_user_set(folder: &Path, parts: Parts) -> Result<PathBuf> {
    if folder.is_relative() {
        bail!(
            "LIBTORCH is {}: make it absolute, builds of different packages run in different folders",
            folder.display()
        );
    }
    folder::check(folder)
        .with_context(|| format!("LIBTORCH is {}, which cannot be used: correct it, or unset it", folder.display()))?;
    if parts == Parts::WithCuda && !folder::has_cuda(folder) {
        bail!("LIBTORCH is {}, which has no CUDA parts: name one that has, or unset it", folder.display());
    }
    Ok(fs::canonicalize(folder)?)
}

/// Where libtorch is kept, once a machine.
fn cache() -> Result<PathBuf> {
    let folder = dirs::cache_dir().context("this user has no cache folder: set HOME")?.join("ipa");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}
