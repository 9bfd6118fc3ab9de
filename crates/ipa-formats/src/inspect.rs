//! What a file or folder is, from headers and configuration files alone.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::content::{Content, content_of};
use crate::{
    AdapterOptions, Dtype, FormatError, Licence, ModelFolder, TensorInfo, Weights, read_json, read_json_if_there,
    weights_file,
};

/// Configuration files that make a folder a component; only the first comes with weights.
const CONFIG_NAMES: [&str; 4] =
    ["config.json", "scheduler_config.json", "preprocessor_config.json", "tokenizer_config.json"];
/// A tokenizer may come without a configuration file.
const VOCABULARY_NAME: &str = "vocab.json";
/// Where these files keep the name of the class they configure.
const CLASS_KEYS: [&str; 6] =
    ["_class_name", "architectures", "image_processor_type", "feature_extractor_type", "tokenizer_class", "model_type"];

/// What was found at a path.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "found", rename_all = "kebab-case")]
pub enum Inspection {
    /// One file of weights, or the index of several.
    File(FileInspection),
    /// The folder of one model component.
    Component(ComponentInspection),
    /// A diffusers-style model folder.
    Model(ModelInspection),
}

/// One file of weights, or the index of several.
#[derive(Clone, Debug, Serialize)]
pub struct FileInspection {
    /// What the tensors are.
    pub content: Content,
    /// Sizes in total.
    #[serde(flatten)]
    pub summary: WeightsSummary,
    /// Free text entries of the header.
    pub metadata: BTreeMap<String, String>,
    /// What its authors allow, if it or a model card says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub licence: Option<Licence>,
    /// Every tensor, sorted by name.
    pub tensors: Vec<TensorListing>,
}

/// The sizes of a weights file.
#[derive(Clone, Debug, Serialize)]
pub struct WeightsSummary {
    /// The file.
    pub file: PathBuf,
    /// Its length in bytes.
    pub file_bytes: u64,
    /// Number of tensors.
    pub num_tensors: usize,
    /// Number of elements of all tensors.
    pub num_parameters: u64,
    /// The same by element type.
    pub dtypes: BTreeMap<Dtype, DtypeTotal>,
}

/// What the tensors of one element type add up to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct DtypeTotal {
    /// Number of tensors.
    pub num_tensors: usize,
    /// Number of elements.
    pub num_parameters: u64,
    /// Bytes of data.
    pub bytes: u64,
}

/// One tensor of a file.
#[derive(Clone, Debug, Serialize)]
pub struct TensorListing {
    /// Name in the file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
}

/// The folder of one model component.
#[derive(Clone, Debug, Serialize)]
pub struct ComponentInspection {
    /// Name of the folder.
    pub name: String,
    /// The folder.
    pub path: PathBuf,
    /// Class that the configuration names, such as `UNet2DConditionModel`.
    pub class: Option<String>,
    /// What its configuration tells of a UNet or a sampler, such as `2.x for inpainting`.
    pub recognised: Option<String>,
    /// Its weights, if the component has any.
    pub weights: Option<WeightsSummary>,
    /// What is missing or broken, with the place.
    pub problems: Vec<String>,
}

/// A diffusers-style model folder.
#[derive(Clone, Debug, Serialize)]
pub struct ModelInspection {
    /// The folder.
    pub path: PathBuf,
    /// Pipeline class that `model_index.json` names.
    pub class: Option<String>,
    /// What its authors allow, if its card says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub licence: Option<Licence>,
    /// Its components, sorted by name.
    pub components: Vec<ComponentInspection>,
    /// What is missing or broken outside the components, with the place.
    pub problems: Vec<String>,
}

/// Inspects a single-file checkpoint, a safetensors or torch file, the index of several, a component's folder or a model folder.
///
/// Reads headers and configuration only, so that a file of any size takes no time. A folder with
/// broken parts is inspected as far as possible and lists its `problems`.
///
/// # Errors
/// [`FormatError`] if a single file is unreadable, no weights or an incomplete adapter, or if a
/// folder holds nothing of a model.
pub fn inspect(path: &Path) -> Result<Inspection, FormatError> {
    inspect_as(path, &AdapterOptions::default())
}

/// As [`inspect`], with what is known of an adapter that its file may not tell.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_as(path: &Path, options: &AdapterOptions) -> Result<Inspection, FormatError> {
    let found = fs::metadata(path).map_err(|source| FormatError::Read { path: path.to_owned(), source })?;
    if !found.is_dir() {
        return inspect_file(path, options).map(Inspection::File);
    }
    if let Ok(model) = ModelFolder::open(path) {
        return inspect_model(&model).map(Inspection::Model);
    }
    if !is_component(path) {
        return Err(FormatError::NothingToInspect { path: path.to_owned() });
    }
    Ok(Inspection::Component(inspect_component(path)))
}

fn inspect_file(path: &Path, options: &AdapterOptions) -> Result<FileInspection, FormatError> {
    let weights = Weights::open(path)?;
    let tensors = weights.tensors();
    let content = content_of(&weights, &tensors, options)?;
    let summary = summarise(&weights);
    let listing = |(name, TensorInfo { dtype, shape })| TensorListing { name, dtype, shape };
    Ok(FileInspection {
        content,
        summary,
        licence: Licence::of(path, &weights.metadata()),
        metadata: weights.metadata(),
        tensors: tensors.into_iter().map(listing).collect(),
    })
}

fn summarise(weights: &Weights) -> WeightsSummary {
    let mut dtypes = BTreeMap::<Dtype, DtypeTotal>::new();
    for info in weights.names().filter_map(|name| weights.info(name)) {
        let total = dtypes.entry(info.dtype).or_default();
        total.num_tensors += 1;
        total.num_parameters += info.num_elements() as u64;
        total.bytes += info.num_bytes() as u64;
    }
    WeightsSummary {
        file: weights.path().to_owned(),
        file_bytes: weights.num_bytes(),
        num_tensors: weights.names().count(),
        num_parameters: dtypes.values().map(|total| total.num_parameters).sum(),
        dtypes,
    }
}

fn is_component(folder: &Path) -> bool {
    CONFIG_NAMES.iter().any(|name| folder.join(name).is_file()) || weights_file(folder).is_ok()
}

fn inspect_component(folder: &Path) -> ComponentInspection {
    let mut problems = Vec::new();
    let mut keep = |error: FormatError| problems.push(with_causes(&error));
    let config = CONFIG_NAMES.iter().find(|name| folder.join(name).is_file());
    let settings = config.and_then(|name| read_json::<Value>(&folder.join(name)).map_err(&mut keep).ok());
    let class = settings.as_ref().and_then(class_of);
    let recognised = settings.as_ref().and_then(recognised);
    let has_weights = match config {
        Some(&name) => name == CONFIG_NAMES[0],
        None => !folder.join(VOCABULARY_NAME).is_file(),
    };
    if has_weights && config.is_none() {
        keep(FormatError::MissingConfig { path: folder.to_owned() });
    }
    let weights = has_weights.then(|| summarise_folder(folder).map_err(&mut keep).ok()).flatten();
    ComponentInspection { name: name_of(folder), path: folder.to_owned(), class, recognised, weights, problems }
}

fn summarise_folder(component: &Path) -> Result<WeightsSummary, FormatError> {
    Ok(summarise(&Weights::open(&weights_file(component)?)?))
}

fn inspect_model(model: &ModelFolder) -> Result<ModelInspection, FormatError> {
    let mut problems = Vec::new();
    let index = read_json_if_there::<Value>(&model.path().join("model_index.json")).unwrap_or_else(|error| {
        problems.push(with_causes(&error));
        None
    });
    let index = index.unwrap_or_default();
    // Without an index, or one that says nothing, what drawing needs.
    let needed = ["scheduler", "text_encoder", "tokenizer", "unet", "vae"];
    let listed: Vec<&str> = listed_components(&index).collect();
    for name in if listed.is_empty() { &needed[..] } else { &listed } {
        if let Err(error) = model.require(name) {
            problems.push(with_causes(&error));
        }
    }
    let mut components: Vec<ComponentInspection> = sub_folders(model.path())?
        .iter()
        .filter(|folder| is_component(folder) || listed_components(&index).any(|name| name == name_of(folder)))
        .map(|folder| inspect_component(folder))
        .collect();
    components.sort_by(|a, b| a.name.cmp(&b.name));
    let licence = Licence::of(model.path(), &BTreeMap::new());
    Ok(ModelInspection { path: model.path().to_owned(), class: class_of(&index), licence, components, problems })
}

/// Components of `model_index.json`: entries `[library, class]`, of which `[null, null]` is absent.
fn listed_components(index: &Value) -> impl Iterator<Item = &str> {
    let entries = index.as_object().into_iter().flatten();
    entries.filter(|(_, entry)| entry.get(1).is_some_and(Value::is_string)).map(|(name, _)| name.as_str())
}

fn sub_folders(folder: &Path) -> Result<Vec<PathBuf>, FormatError> {
    let entries = fs::read_dir(folder).map_err(|source| FormatError::Read { path: folder.to_owned(), source })?;
    Ok(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
}

fn class_of(config: &Value) -> Option<String> {
    let values = CLASS_KEYS.iter().filter_map(|key| config.get(key));
    let mut names = values.filter_map(|value| value.get(0).unwrap_or(value).as_str());
    names.next().map(str::to_owned)
}

/// What a UNet is for, by its channels and the width of its context, and what a sampler expects of it.
fn recognised(config: &Value) -> Option<String> {
    if let Some(prediction) = config.get("prediction_type").and_then(Value::as_str) {
        return Some(format!("predicts {prediction}"));
    }
    let channels = config.get("in_channels").filter(|_| config.get("cross_attention_dim").is_some())?.as_u64()?;
    let generation = match config["cross_attention_dim"].as_u64() {
        Some(2048) => "SDXL",
        Some(1024) => "2.x",
        _ if config.get("use_linear_projection").and_then(Value::as_bool) == Some(true) => "2.x",
        _ => "1.x",
    };
    let task = match channels {
        4 => "",
        8 => " for editing by instruction",
        9 => " for inpainting",
        _ => " of unknown purpose",
    };
    Some(format!("{generation}{task}"))
}

fn name_of(folder: &Path) -> String {
    folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned()
}

fn with_causes(error: &FormatError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{AdapterDialect, TensorBytes, write_safetensors};

    fn write_halves(path: &Path, tensors: &[(&str, &[usize])]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let zeros = |&(name, shape): &(&str, &[usize])| TensorBytes {
            name: name.to_owned(),
            dtype: Dtype::F16,
            shape: shape.to_vec(),
            data: vec![0; 2 * shape.iter().product::<usize>()].into(),
        };
        write_safetensors(path, tensors.iter().map(zeros).collect(), None).unwrap();
    }

    fn write_json(path: &Path, value: Value) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, value.to_string()).unwrap();
    }

    fn inspected_file(tensors: &[(&str, &[usize])]) -> FileInspection {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        write_halves(&path, tensors);
        match inspect(&path).unwrap() {
            Inspection::File(file) => file,
            other => panic!("{other:?} is no file"),
        }
    }

    const ADAPTER: [(&str, &[usize]); 6] = [
        ("image_proj.proj.weight", &[32, 6]),
        ("image_proj.proj.bias", &[32]),
        ("image_proj.norm.weight", &[8]),
        ("image_proj.norm.bias", &[8]),
        ("ip_adapter.1.to_k_ip.weight", &[4, 8]),
        ("ip_adapter.1.to_v_ip.weight", &[4, 8]),
    ];

    #[test]
    fn an_adapter_file_is_described_from_its_header() {
        let file = inspected_file(&ADAPTER);
        let Content::Adapter { adapter, dialect, .. } = &file.content else { panic!("{:?}", file.content) };
        assert_eq!((adapter.num_tokens, adapter.num_layers, adapter.cross_attention_dim), (4, 1, 8));
        assert_eq!(*dialect, AdapterDialect::Published);
        assert_eq!((file.summary.num_tensors, file.summary.num_parameters), (6, 32 * 6 + 32 + 2 * 8 + 2 * 32));
        let total = DtypeTotal { num_tensors: 6, num_parameters: 304, bytes: 608 };
        assert_eq!(file.summary.dtypes, BTreeMap::from([(Dtype::F16, total)]));
        assert_eq!(file.metadata["format"], "pt");
        assert!(file.tensors.iter().map(|tensor| tensor.name.as_str()).eq(ADAPTER_SORTED));
    }

    const ADAPTER_SORTED: [&str; 6] = [
        "image_proj.norm.bias",
        "image_proj.norm.weight",
        "image_proj.proj.bias",
        "image_proj.proj.weight",
        "ip_adapter.1.to_k_ip.weight",
        "ip_adapter.1.to_v_ip.weight",
    ];

    #[test]
    fn an_incomplete_adapter_is_an_error_with_file_and_tensor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cut.safetensors");
        write_halves(&path, &ADAPTER[..5]);
        let error = with_causes(&inspect(&path).unwrap_err());
        assert!(error.contains("cut.safetensors") && error.contains("ip_adapter.1.to_v_ip.weight"), "{error}");
    }

    fn model_folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let index = serde_json::json!({
            "_class_name": "StableDiffusionPipeline",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "safety_checker": [null, null],
            "requires_safety_checker": false,
        });
        write_json(&at("model_index.json"), index);
        write_json(&at("unet/config.json"), serde_json::json!({"_class_name": "UNet2DConditionModel"}));
        write_halves(&at("unet/diffusion_pytorch_model.safetensors"), &[("conv_in.weight", &[2, 4, 3, 3])]);
        write_json(&at("image_encoder/config.json"), serde_json::json!({"architectures": ["CLIPVision"]}));
        write_halves(&at("image_encoder/model.safetensors"), &[("vision_model.pre_layrnorm.bias", &[8])]);
        write_json(&at("tokenizer/vocab.json"), serde_json::json!({"a": 0}));
        write_json(&at("scheduler/scheduler_config.json"), serde_json::json!({"_class_name": "DDIMScheduler"}));
        folder
    }

    fn inspected_model(folder: &Path) -> ModelInspection {
        match inspect(folder).unwrap() {
            Inspection::Model(model) => model,
            other => panic!("{other:?} is no model"),
        }
    }

    #[test]
    fn a_model_folder_lists_its_components() {
        let folder = model_folder();
        let model = inspected_model(folder.path());
        assert_eq!(model.class.as_deref(), Some("StableDiffusionPipeline"));
        assert_eq!(model.problems, [""; 0]);
        let found: Vec<_> = model
            .components
            .iter()
            .map(|part| (part.name.as_str(), part.class.as_deref(), part.weights.as_ref().map(|w| w.num_parameters)))
            .collect();
        let expected = [
            ("image_encoder", Some("CLIPVision"), Some(8)),
            ("scheduler", Some("DDIMScheduler"), None),
            ("tokenizer", None, None),
            ("unet", Some("UNet2DConditionModel"), Some(72)),
        ];
        assert_eq!(found, expected);
        assert!(model.components.iter().all(|part| part.problems.is_empty()));
    }

    #[test]
    fn a_broken_model_folder_lists_its_problems() {
        let folder = model_folder();
        let at = |name: &str| folder.path().join(name);
        fs::remove_dir_all(at("scheduler")).unwrap();
        fs::write(at("unet/diffusion_pytorch_model.safetensors"), "short").unwrap();
        fs::remove_file(at("image_encoder/config.json")).unwrap();
        let model = inspected_model(folder.path());
        assert!(model.problems.len() == 1 && model.problems[0].contains("scheduler/"), "{:?}", model.problems);
        let problems_of = |name: &str| {
            let part = model.components.iter().find(|part| part.name == name).unwrap();
            part.problems.join("\n")
        };
        assert!(problems_of("unet").contains("diffusion_pytorch_model.safetensors"), "{}", problems_of("unet"));
        assert!(problems_of("image_encoder").contains("config.json"), "{}", problems_of("image_encoder"));
    }

    #[test]
    fn a_component_folder_is_inspected_alone() {
        let folder = model_folder();
        let found = inspect(&folder.path().join("unet")).unwrap();
        let Inspection::Component(unet) = found else { panic!("{found:?}") };
        assert_eq!((unet.name.as_str(), unet.class.as_deref()), ("unet", Some("UNet2DConditionModel")));
    }

    #[test]
    fn a_folder_of_something_else_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(inspect(folder.path()), Err(FormatError::NothingToInspect { .. })));
        assert!(matches!(inspect(&folder.path().join("nowhere")), Err(FormatError::Read { .. })));
    }

    #[test]
    fn an_inspection_is_one_json_object() {
        let json = serde_json::to_value(Inspection::File(inspected_file(&ADAPTER))).unwrap();
        assert_eq!(json["found"], "file");
        assert_eq!(json["content"]["adapter"]["kind"], "classic");
        assert_eq!(json["dtypes"]["F16"]["bytes"], 608);
        assert_eq!(json["tensors"][0]["dtype"], "F16");
    }
}
