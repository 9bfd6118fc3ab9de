//! `ipa inspect`

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use ipa_formats::{
    AdapterCoupling, AdapterDialect, AdapterInfo, AdapterKind, AdapterOptions, AdapterVariant, ComponentInspection,
    Content, FileInspection, Inspection, Licence, Manifest, Numbering, TensorListing, WeightsSummary, inspect,
    inspect_as,
};
use serde::Serialize;

use crate::args::numbering;
use crate::{model, names, output, progress};

/// What is known of the published adapters that read faces, where no file says more: the network that makes identity
/// vectors was trained on pictures that are free for research alone.
const FACE_LICENCE: &str =
    "  licence    the published FaceID adapters are for non-commercial research; this file says nothing";
/// Longer values of a file's metadata are cut.
const VALUE_CHARS: usize = 100;

/// Tell what a model folder, a component, a single-file checkpoint or a weights file is, from its headers alone
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  ipa inspect pocket\n  ipa inspect pocket --tensors\n  \
    ipa inspect ip-adapter-faceid-plus_sd15.bin --adapter-variant faceid-plus\n  \
    ipa inspect stable-diffusion-v1-5 --digest > stable-diffusion-v1-5.sha256")]
pub(crate) struct InspectArgs {
    /// Checkpoint or weights file (safetensors, .ckpt, .bin, or the index of several), component folder, model folder, or `pocket`
    #[arg(value_name = "FILE|FOLDER|pocket")]
    path: PathBuf,
    /// What an adapter is, where its tensors do not show it: faceid-plusv2 has those of faceid-plus
    #[arg(long, value_name = "NAME")]
    adapter_variant: Option<AdapterVariant>,
    /// How an adapter's layers are numbered: published (1, 3, 5, …), or dense (0, 1, 2, …) in the same order
    #[arg(long, value_name = "NAME", value_parser = numbering)]
    adapter_numbering: Option<Numbering>,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Print the SHA-256 of the file, or of every file in the folder, as sha256sum does; `ipa verify` compares
    #[arg(long, conflicts_with = "tensors")]
    digest: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Inspected<'a> {
    #[serde(flatten)]
    inspection: &'a Inspection,
    /// The file that comes with the pocket model.
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter: Option<&'a Inspection>,
}

pub(crate) fn run(args: &InspectArgs) -> Result<()> {
    let (path, adapter) = match args.path.to_str() {
        Some(model::POCKET) => {
            let source = model::bundled()?;
            (source.files.path().to_owned(), source.adapter)
        }
        _ => (names::found(&args.path)?, None),
    };
    if args.digest {
        return digest(&path, args.json);
    }
    let options =
        AdapterOptions { variant: args.adapter_variant, numbering: args.adapter_numbering.unwrap_or_default() };
    let inspection = inspect_as(&path, &options)?;
    let adapter = adapter.as_deref().map(inspect).transpose()?;
    if args.json {
        output::json_line(&Inspected { inspection: &inspection, adapter: adapter.as_ref() })?;
    } else {
        for inspection in [Some(&inspection), adapter.as_ref()].into_iter().flatten() {
            for line in describe(inspection, args.tensors)? {
                output::line(line)?;
            }
        }
    }
    match problems(&inspection).len() {
        0 => Ok(()),
        1 => bail!("{} has a problem: {}", path.display(), problems(&inspection)[0]),
        n => bail!("{} has {n} problems, the first: {}", path.display(), problems(&inspection)[0]),
    }
}

/// Prints the digests of a file, or of those in a folder.
fn digest(path: &Path, json: bool) -> Result<()> {
    let bar = progress::bytes(Manifest::num_bytes_of(path)?, "reading", json);
    let manifest = Manifest::of(path, |bytes| bar.inc(bytes))?;
    drop(bar);
    match json {
        true => output::json_line(&serde_json::json!({ "digests": manifest }))?,
        false => output::text(&manifest)?,
    }
    Ok(())
}

fn problems(inspection: &Inspection) -> Vec<&String> {
    match inspection {
        Inspection::File(_) => Vec::new(),
        Inspection::Component(component) => component.problems.iter().collect(),
        Inspection::Model(model) => {
            model.problems.iter().chain(model.components.iter().flat_map(|component| &component.problems)).collect()
        }
    }
}

fn describe(inspection: &Inspection, tensors: bool) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    match inspection {
        Inspection::File(file) => describe_file(file, tensors, &mut lines),
        Inspection::Component(component) => describe_component(component, tensors, &mut lines)?,
        Inspection::Model(model) => {
            let class = model.class.as_deref().unwrap_or("of no class that model_index.json names");
            lines.push(format!("{}: model folder, {class}", model.path.display()));
            lines.extend(model.licence.as_ref().map(licence));
            lines.extend(model.problems.iter().map(|problem| format!("  problem: {problem}")));
            for component in &model.components {
                describe_component(component, tensors, &mut lines)?;
            }
        }
    }
    Ok(lines)
}

fn describe_component(component: &ComponentInspection, tensors: bool, lines: &mut Vec<String>) -> Result<()> {
    let class = component.class.as_deref().unwrap_or("-");
    let recognised = component.recognised.clone();
    let known: Vec<String> = recognised.into_iter().chain(component.weights.as_ref().map(sizes)).collect();
    lines.push(format!("  {:<20} {class:<32} {}", component.name, known.join("; ")).trim_end().to_owned());
    lines.extend(component.problems.iter().map(|problem| format!("    problem: {problem}")));
    if let (true, Some(weights)) = (tensors, &component.weights)
        && let Inspection::File(file) = inspect(&weights.file)?
    {
        lines.extend(table(&file.tensors));
    }
    Ok(())
}

fn describe_file(file: &FileInspection, tensors: bool, lines: &mut Vec<String>) {
    lines.push(format!("{}: {}", file.summary.file.display(), content(&file.content)));
    if let Content::Adapter { adapter, dialect, .. } = &file.content {
        lines.extend(describe_adapter(adapter));
        lines.push(format!("  names      {}", dialect_name(*dialect)));
    }
    lines.push(format!("  size       {}", sizes(&file.summary)));
    match (&file.licence, &file.content) {
        (Some(found), _) => lines.push(licence(found)),
        (None, Content::Adapter { adapter, .. }) if adapter.face_embed_dim.is_some() => {
            lines.push(FACE_LICENCE.to_owned())
        }
        (None, _) => {}
    }
    for (key, value) in &file.metadata {
        // Our own is one JSON object: a line for each of its fields.
        match serde_json::from_str::<serde_json::Map<_, serde_json::Value>>(value) {
            Ok(fields) => {
                lines.extend(fields.iter().map(|(name, value)| metadata(&format!("{key}.{name}"), &value.to_string())))
            }
            Err(_) => lines.push(metadata(key, value)),
        }
    }
    if tensors {
        lines.extend(table(&file.tensors));
    }
}

fn licence(Licence { name, link, source }: &Licence) -> String {
    let link = link.as_ref().map(|link| format!(" ({link})"));
    format!("  licence    {name}{}, says {}", link.unwrap_or_default(), source.display())
}

fn metadata(key: &str, value: &str) -> String {
    let shown: String = value.chars().take(VALUE_CHARS).collect();
    let rest = if shown.len() < value.len() { "…" } else { "" };
    format!("  metadata   {key} = {shown}{rest}")
}

fn content(content: &Content) -> String {
    match content {
        Content::Adapter { .. } => "IP-Adapter".to_owned(),
        Content::SingleFile { info } => info.to_string(),
        Content::Unet => "UNet".to_owned(),
        Content::Vae => "VAE".to_owned(),
        Content::TextEncoder => "CLIP text encoder".to_owned(),
        Content::ImageEncoder => "CLIP image encoder".to_owned(),
        Content::Clip => "CLIP, both towers".to_owned(),
        Content::Embeddings => "what `ipa embed` made of references; a request takes it as `embeds`".to_owned(),
        Content::Lora => "LoRA of a UNet; that of a FaceID adapter goes beside it with `--lora`".to_owned(),
        Content::Other { what } => format!("{what}, which is not read here"),
        Content::Unknown => "tensors of no known model".to_owned(),
    }
}

fn describe_adapter(adapter: &AdapterInfo) -> Vec<String> {
    let layers = match adapter.coupling {
        AdapterCoupling::Concatenated => "any number of cross-attention layers".to_owned(),
        _ => format!("{} cross-attention layers", adapter.num_layers),
    };
    let mut lines = vec![
        format!("  variant    {}", adapter.variant()),
        format!("  base       {} ({layers}, text width {})", name(&adapter.base), adapter.cross_attention_dim),
        format!("  tokens     {} an image", adapter.num_tokens),
    ];
    let image = match adapter.kind {
        AdapterKind::Classic => "the image embedding",
        _ => "image features before the encoder's last layer",
    };
    let reads = [(image, adapter.image_embed_dim), ("an identity vector", adapter.face_embed_dim)];
    let reads = reads.into_iter().filter_map(|(what, width)| Some((what, width?)));
    lines.extend(reads.map(|(what, width)| format!("  reads      {what}, width {width}")));
    lines.extend(adapter.encoder().map(|encoder| format!("  encoder    {encoder}")));
    lines.extend(lora(adapter).map(|lora| format!("  LoRA       {lora}")));
    if adapter.variant() == AdapterVariant::FaceIdPlus {
        lines.push("  version    1, unless `--adapter-variant faceid-plusv2` says 2: tensors do not tell".to_owned());
    }
    lines
}

fn lora(adapter: &AdapterInfo) -> Option<String> {
    use AdapterVariant::{FaceId, FaceIdPlus, FaceIdPlusV2};
    match (adapter.lora_rank, adapter.variant()) {
        (Some(rank), _) => Some(format!("inside, rank {rank}")),
        (None, FaceId | FaceIdPlus | FaceIdPlusV2) => Some("in a file of its own: name it with `--lora`".to_owned()),
        _ => None,
    }
}

pub(crate) fn dialect_name(dialect: AdapterDialect) -> &'static str {
    match dialect {
        AdapterDialect::Published => "published",
        AdapterDialect::Trainer => "the reference trainer's",
        AdapterDialect::Processors => "by attention processor",
        AdapterDialect::Diffusers => "diffusers' own",
    }
}

/// The name that JSON has for a kind or base.
fn name(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn sizes(summary: &WeightsSummary) -> String {
    let dtypes: Vec<&str> = summary.dtypes.keys().map(|dtype| dtype.name()).collect();
    format!(
        "{} tensors, {} parameters, {}, {}",
        summary.num_tensors,
        scaled(summary.num_parameters, 1000.0, ["", " k", " M", " G"]),
        dtypes.join(" + "),
        scaled(summary.file_bytes, 1000.0, [" B", " kB", " MB", " GB"]),
    )
}

fn scaled(number: u64, step: f64, units: [&str; 4]) -> String {
    let (mut value, mut unit) = (number as f64, 0);
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let digits = usize::from(unit > 0);
    format!("{value:.digits$}{}", units[unit])
}

fn table(tensors: &[TensorListing]) -> Vec<String> {
    let width = tensors.iter().map(|tensor| tensor.name.len()).max().unwrap_or_default();
    tensors
        .iter()
        .map(|TensorListing { name, dtype, shape }| format!("    {name:<width$}  {:<5} {shape:?}", dtype.name()))
        .collect()
}
