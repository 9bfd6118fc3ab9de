//! Any file of tensors as safetensors, its tensors under their own names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{ModelConversionOptions, Plan, unchanged};
use crate::convert::{Conversion, Dropped, no_tensors};
use crate::weights::Made;
use crate::{Component, FormatError, PlainValue, SingleFile, SingleFileOptions, TensorFile, Weights, read_single_file};

/// The part of a training checkpoint that is the model; what loads such files takes it and nothing else.
const STATE: &str = "state_dict.";

pub(super) fn plan(input: &Path, options: &ModelConversionOptions) -> Result<Plan, FormatError> {
    let weights = Weights::open(input)?;
    let refuse =
        |problem: &str| Err(FormatError::NotConvertible { path: input.to_owned(), problem: problem.to_owned() });
    if weights.names().next().is_none() {
        return refuse("it holds no tensors; give a file of weights");
    }
    if weights.names().any(|name| name.starts_with("string_to_param")) {
        return refuse(
            "it is a textual inversion with its token inside, which safetensors cannot say; keep it as it is",
        );
    }
    let mut plan = Plan::default();
    for file in weights.files() {
        drop_values(file.values(), &mut plan);
    }
    let is_torch = weights.files().all(|file| matches!(**file, TensorFile::Torch(_)));
    let in_state = is_torch && weights.names().any(|name| name.starts_with(STATE));
    let made = match (in_state, options.ema) {
        (false, false) => unchanged(weights),
        (_, ema) => chosen(weights, if in_state { STATE } else { "" }, ema)?,
    };
    plan.weights.insert(String::new(), made);
    Ok(plan)
}

/// The tensors behind a prefix, those of the UNet from their averages if wanted.
fn chosen(weights: Weights, prefix: &str, ema: bool) -> Result<Conversion, FormatError> {
    let averages = if ema { averages(&weights)? } else { BTreeMap::new() };
    let taken: BTreeSet<&str> = averages.values().map(String::as_str).collect();
    let (mut made, mut dropped) = (BTreeMap::new(), Vec::new());
    for name in weights.names().filter(|name| !taken.contains(name)) {
        let inner = name.strip_prefix(prefix);
        let is_count = ema && name.contains("model_ema.");
        let average = averages.get(name).map(String::as_str);
        if let Some(inner) = inner.filter(|_| !is_count) {
            made.insert(inner.to_owned(), Made::Moved(average.unwrap_or(name).to_owned()));
        }
        let reason = match (inner, average) {
            (None, _) => "stands beside the model's weights (`state_dict`), as an optimizer's state does",
            (Some(_), _) if is_count => "counts the averages, which have become the weights",
            (Some(_), Some(_)) => "its average was taken in its place",
            (Some(_), None) => continue,
        };
        dropped.push(Dropped { name: name.to_owned(), reason: reason.to_owned() });
    }
    let texts = weights.metadata();
    Ok(Conversion::new(weights.renamed(made.into_iter()), dropped, Vec::new()).with_texts(texts))
}

/// The average of each of the UNet's weights, by names of the file.
fn averages(weights: &Weights) -> Result<BTreeMap<String, String>, FormatError> {
    let sources = |ema| -> Result<BTreeMap<(Component, String), String>, FormatError> {
        let options = SingleFileOptions { ema, ..SingleFileOptions::default() };
        let SingleFile { plans, .. } = read_single_file(&weights.tensors(), &options)
            .map_err(|source| FormatError::SingleFile { path: weights.path().to_owned(), source: Box::new(source) })?;
        let unet = plans.into_iter().filter(|plan| plan.component == Component::Unet);
        Ok(unet.flat_map(|plan| Some(((plan.component, plan.name), plan.sources.into_iter().next()?))).collect())
    };
    let (own, mut averages) = (sources(false)?, sources(true)?);
    Ok(own.into_iter().filter_map(|(target, name)| Some((name, averages.remove(&target)?))).collect())
}

/// Names what safetensors cannot hold.
pub(super) fn drop_values(values: &BTreeMap<String, PlainValue>, plan: &mut Plan) {
    plan.dropped.extend(no_tensors(values));
}
