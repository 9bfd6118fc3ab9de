//! `ipa doctor`

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use ipa_core::device::{compute_capability, device_name, kind_name, load_cuda_backend, parse_device, parse_kind};
use ipa_core::tch::{self, Device};
use ipa_core::what_slows_drawing;
use serde::Serialize;

use crate::{model, output};

/// The version of libtorch that `tch` is bound to.
const LIBTORCH_VERSION: &str = "2.11.0";

/// Tell what this machine offers: libtorch, devices, precisions, threads; what is missing and how to get it
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ipa doctor --json")]
pub(crate) struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Diagnosis {
    ipa: &'static str,
    system: String,
    libtorch: Libtorch,
    devices: Vec<DeviceReport>,
    /// What `--device auto` picks.
    auto: String,
    cache_folder: Option<PathBuf>,
    pocket_model: bool,
    advice: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Libtorch {
    built_for: &'static str,
    /// What the set-up noted beside the loaded library.
    found: Option<String>,
    library: Option<PathBuf>,
    mkl: bool,
    mkldnn: bool,
    openmp: bool,
    cuda: bool,
    mps: bool,
}

#[derive(Debug, Serialize)]
struct DeviceReport {
    device: String,
    /// What `--dtype auto` picks on it.
    auto_dtype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compute_capability: Option<(i32, i32)>,
}

pub(crate) fn run(args: &DoctorArgs) -> Result<()> {
    let diagnosis = examine()?;
    if args.json {
        output::json_line(&diagnosis)?;
        return Ok(());
    }
    for line in describe(&diagnosis) {
        output::line(line)?;
    }
    Ok(())
}

fn examine() -> Result<Diagnosis> {
    load_cuda_backend();
    let libtorch = libtorch();
    let advice = advice(&libtorch);
    Ok(Diagnosis {
        ipa: env!("CARGO_PKG_VERSION"),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        libtorch,
        devices: devices().into_iter().map(report).collect::<Result<_>>()?,
        auto: device_name(parse_device("auto")?),
        cache_folder: dirs::cache_dir().map(|folder| folder.join("ipa")),
        pocket_model: model::has_pocket(),
        advice,
    })
}

fn libtorch() -> Libtorch {
    let library = loaded_library();
    let version_file = library.as_deref().and_then(Path::parent).map(|folder| folder.join("../build-version"));
    Libtorch {
        built_for: LIBTORCH_VERSION,
        found: version_file.and_then(|file| std::fs::read_to_string(file).ok()).map(|text| text.trim().to_owned()),
        library,
        mkl: tch::utils::has_mkl(),
        mkldnn: tch::utils::has_mkldnn(),
        openmp: tch::utils::has_openmp(),
        cuda: tch::utils::has_cuda(),
        mps: tch::utils::has_mps(),
    }
}

/// The file that libtorch was loaded from; only Linux tells.
fn loaded_library() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("/libtorch_cpu.so"))?;
    Some(PathBuf::from(&line[line.find('/')?..]))
}

fn devices() -> Vec<Device> {
    let cards = usize::try_from(tch::Cuda::device_count()).unwrap_or_default();
    let mps = tch::utils::has_mps().then_some(Device::Mps);
    [Device::Cpu].into_iter().chain((0..cards).map(Device::Cuda)).chain(mps).collect()
}

fn report(device: Device) -> Result<DeviceReport> {
    Ok(DeviceReport {
        device: device_name(device),
        auto_dtype: kind_name(parse_kind("auto", device)?),
        threads: (device == Device::Cpu).then(tch::utils::get_num_threads),
        compute_capability: match device {
            Device::Cuda(index) => compute_capability(index),
            _ => None,
        },
    })
}

fn advice(libtorch: &Libtorch) -> Vec<String> {
    let mut advice = Vec::new();
    if let Some(found) = &libtorch.found
        && found.split('+').next() != Some(LIBTORCH_VERSION)
    {
        advice.push(format!(
            "libtorch is {found}, not {LIBTORCH_VERSION}: get the right one with `cargo xtask libtorch`"
        ));
    }
    if tch::Cuda::device_count() == 0 && compute_capability(0).is_some() {
        advice.push(
            "a CUDA card is here but cannot be used: add libtorch's CUDA parts with `cargo xtask libtorch \
             --cuda`; if they are there, the card's driver is too old for CUDA 13"
                .to_owned(),
        );
    }
    if let Some(reason) = what_slows_drawing() {
        advice.push(format!("drawing on the card is slower than it could be: {reason}"));
    }
    if !model::has_pocket() {
        advice.push("the pocket model is not in this program: build it with the feature `pocket`".to_owned());
    }
    if dirs::cache_dir().is_none() {
        advice.push("this user has no cache folder: set HOME or XDG_CACHE_HOME".to_owned());
    }
    advice
}

fn describe(diagnosis: &Diagnosis) -> Vec<String> {
    let Diagnosis { ipa, system, libtorch, devices, auto, cache_folder, pocket_model, advice } = diagnosis;
    let yes_no = |flag: bool| if flag { "yes" } else { "no" };
    let shown = |path: &Option<PathBuf>| path.as_ref().map_or("unknown".to_owned(), |path| path.display().to_string());
    let mut lines = vec![
        format!("ipa {ipa} on {system}"),
        format!("libtorch {} (built for {})", libtorch.found.as_deref().unwrap_or("?"), libtorch.built_for),
        format!("  library    {}", shown(&libtorch.library)),
        format!(
            "  parts      MKL {}, MKLDNN {}, OpenMP {}, CUDA {}, MPS {}",
            yes_no(libtorch.mkl),
            yes_no(libtorch.mkldnn),
            yes_no(libtorch.openmp),
            yes_no(libtorch.cuda),
            yes_no(libtorch.mps)
        ),
        format!("devices (auto: {auto})"),
    ];
    lines.extend(devices.iter().map(describe_device));
    lines.push(format!("cache folder   {}", shown(cache_folder)));
    lines.push(format!("pocket model   {}", if *pocket_model { "in this program" } else { "missing" }));
    match advice.as_slice() {
        [] => lines.push("nothing is missing".to_owned()),
        advice => lines.extend(advice.iter().map(|advice| format!("to do: {advice}"))),
    }
    lines
}

fn describe_device(report: &DeviceReport) -> String {
    let threads = report.threads.map(|threads| format!(", {threads} threads"));
    let capability = report.compute_capability.map(|(major, minor)| format!(", compute capability {major}.{minor}"));
    let details = threads.or(capability).unwrap_or_default();
    format!("  {:<10} auto precision {}{details}", report.device, report.auto_dtype)
}
