//! Strict loading: every variable of the model is in the file, in its shape, and nothing else is.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ipa_formats::{Dtype, FormatError, TensorBytes, Weights};
use tch::{Device, Kind, Tensor, nn};

use crate::parallel::fill;

/// Why weights could not be loaded or saved.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file itself is at fault.
    #[error(transparent)]
    File(#[from] FormatError),
    /// The configuration is not one that this project computes.
    #[error("{path}: {reason}")]
    Config {
        /// The `config.json`, or the file that stands for it.
        path: PathBuf,
        /// The field and its value.
        reason: String,
    },
    /// The model has variables that the file does not.
    #[error("{path} lacks {} of the model's tensors, first `{}`: is it the weights file of this config.json?", .names.len(), .names[0])]
    Missing {
        /// The weights file.
        path: PathBuf,
        /// Names in the model.
        names: Vec<String>,
    },
    /// The file has tensors that the model does not, or several for one of the model's.
    #[error("{path} holds {} tensors that the model does not know, first `{}`: is it the weights file of this config.json?", .names.len(), .names[0])]
    Unexpected {
        /// The weights file.
        path: PathBuf,
        /// Names in the file.
        names: Vec<String>,
    },
    /// A tensor's shape differs from the model's.
    #[error(
        "{path}: `{name}` is {found:?} in the file, {expected:?} in the model: do weights and config.json belong together?"
    )]
    Shape {
        /// The weights file.
        path: PathBuf,
        /// Name in the model.
        name: String,
        /// Shape in the file.
        found: Vec<i64>,
        /// Shape in the model.
        expected: Vec<i64>,
    },
    /// A tensor holds numbers that models do not compute in.
    #[error("{path}: `{name}` holds {dtype:?}; weights are F32, F16, BF16 or F64")]
    Dtype {
        /// The weights file.
        path: PathBuf,
        /// Name in the file.
        name: String,
        /// What it holds.
        dtype: Dtype,
    },
    /// libtorch refused, usually for want of memory.
    #[error("cannot make a tensor of `{name}`: out of memory?")]
    Tensor {
        /// Name in the model.
        name: String,
        /// libtorch's own words.
        source: tch::TchError,
    },
}

/// A weights file whose tensors have names in a model.
#[derive(Debug)]
pub struct Checkpoint {
    weights: Weights,
    file_names: BTreeMap<String, String>, // name in the model → name in the file
    doubles: Vec<String>,                 // names in the file that got a name in the model that was taken
}

impl Checkpoint {
    /// Maps a file, or the files of an index, as [`Weights::open`] does; names in the model are those in the file.
    ///
    /// # Errors
    /// [`WeightsError::File`] if a file cannot be read or does not hold together.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        Ok(Self::of(Weights::open(path)?))
    }

    /// Of weights that are open already.
    pub fn of(weights: Weights) -> Self {
        let file_names = weights.names().map(|name| (name.to_owned(), name.to_owned())).collect();
        Self { weights, file_names, doubles: Vec::new() }
    }

    /// Gives the file's tensors other names; a tensor for which `model_name` has none is left out.
    ///
    /// Where two get the same name, [`load_into`](Self::load_into) refuses the file.
    pub fn renamed(self, model_name: impl Fn(&str) -> Option<String>) -> Self {
        let Self { weights, file_names, mut doubles } = self;
        let mut renamed = BTreeMap::new();
        for file_name in file_names.into_values() {
            if let Some(name) = model_name(&file_name) {
                doubles.extend(renamed.insert(name, file_name));
            }
        }
        Self { weights, file_names: renamed, doubles }
    }

    /// The names, as the model would call them.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.file_names.keys().map(String::as_str)
    }

    /// The shape of a tensor, by its name in the model.
    pub fn shape(&self, name: &str) -> Option<Vec<i64>> {
        let info = self.weights.info(self.file_names.get(name)?)?;
        Some(info.shape.iter().map(|&size| size as i64).collect())
    }

    /// The file's metadata.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        self.weights.metadata()
    }

    /// The path it was opened with.
    pub fn path(&self) -> &Path {
        self.weights.path()
    }

    /// One tensor, as it is in the file, on the CPU.
    ///
    /// # Errors
    /// [`WeightsError::Missing`] or [`WeightsError::Dtype`].
    pub fn tensor(&self, name: &str) -> Result<Tensor, WeightsError> {
        let missing = || WeightsError::Missing { path: self.weights.path().into(), names: vec![name.to_owned()] };
        let file_name = self.file_names.get(name).ok_or_else(missing)?;
        let info = self.weights.info(file_name).ok_or_else(missing)?;
        let data = self.weights.data(file_name).ok_or_else(missing)?;
        let kind = kind_of(info.dtype).ok_or_else(|| WeightsError::Dtype {
            path: self.weights.path().into(),
            name: file_name.clone(),
            dtype: info.dtype,
        })?;
        let shape: Vec<i64> = info.shape.iter().map(|&size| size as i64).collect();
        let tensor = Tensor::f_empty(&shape, (kind, Device::Cpu))
            .map_err(|source| WeightsError::Tensor { name: name.to_owned(), source })?;
        fill(&tensor, &data);
        Ok(tensor)
    }

    /// Fills every variable of the store, in the store's device and kind.
    ///
    /// # Errors
    /// Missing, unexpected or misshapen tensors; nothing is loaded then.
    pub fn load_into(&self, vs: &nn::VarStore) -> Result<(), WeightsError> {
        let variables: BTreeMap<String, Tensor> = vs.variables().into_iter().collect();
        self.check(&variables)?;
        let _no_grad = tch::no_grad_guard();
        for (name, mut variable) in variables {
            let loaded = self.tensor(&name)?.to_device(vs.device()).to_kind(vs.kind());
            variable.set_data(&loaded);
        }
        Ok(())
    }

    /// Whether the file holds these variables, each of its shape, and nothing else.
    ///
    /// # Errors
    /// As [`Checkpoint::load_into`].
    pub fn check(&self, variables: &BTreeMap<String, Tensor>) -> Result<(), WeightsError> {
        let path = || self.weights.path().to_path_buf();
        let missing: Vec<_> = variables.keys().filter(|name| !self.file_names.contains_key(*name)).cloned().collect();
        if !missing.is_empty() {
            return Err(WeightsError::Missing { path: path(), names: missing });
        }
        let unknown = self.file_names.iter().filter(|(name, _)| !variables.contains_key(*name));
        let unexpected: Vec<_> = unknown.map(|(_, file_name)| file_name).chain(&self.doubles).cloned().collect();
        if !unexpected.is_empty() {
            return Err(WeightsError::Unexpected { path: path(), names: unexpected });
        }
        for (name, variable) in variables {
            let file_name = &self.file_names[name];
            let dtype = self.weights.info(file_name).map(|info| info.dtype);
            if let Some(dtype) = dtype.filter(|dtype| !is_float(*dtype)) {
                return Err(WeightsError::Dtype { path: path(), name: file_name.clone(), dtype });
            }
            let (found, expected) = (self.shape(name).unwrap_or_default(), variable.size());
            if found != expected {
                return Err(WeightsError::Shape { path: path(), name: name.clone(), found, expected });
            }
        }
        Ok(())
    }
}

/// Writes the store's variables under their names, converted to `kind`; atomic and deterministic.
///
/// # Errors
/// [`WeightsError::File`] if the file cannot be written.
pub fn save_variables(
    path: &Path,
    vs: &nn::VarStore,
    kind: Kind,
    metadata: Option<&serde_json::Value>,
) -> Result<(), WeightsError> {
    save_tensors(path, vs.variables().into_iter().map(|(name, tensor)| (name, tensor.to_kind(kind))), metadata)
}

/// Writes named tensors in their own kinds; atomic and deterministic.
///
/// # Errors
/// [`WeightsError::File`] if the file cannot be written.
pub fn save_tensors(
    path: &Path,
    tensors: impl IntoIterator<Item = (String, Tensor)>,
    metadata: Option<&serde_json::Value>,
) -> Result<(), WeightsError> {
    let bytes = tensors.into_iter().map(|(name, tensor)| tensor_bytes(name, &tensor)).collect::<Result<_, _>>()?;
    Ok(ipa_formats::write_safetensors(path, bytes, metadata)?)
}

fn tensor_bytes(name: String, tensor: &Tensor) -> Result<TensorBytes<'static>, WeightsError> {
    let tensor = tensor.detach().to_device(tch::Device::Cpu).contiguous();
    let dtype = match tensor.kind() {
        Kind::Float => Dtype::F32,
        Kind::Half => Dtype::F16,
        Kind::BFloat16 => Dtype::BF16,
        Kind::Double => Dtype::F64,
        Kind::Int64 => Dtype::I64,
        Kind::Int => Dtype::I32,
        Kind::Uint8 => Dtype::U8,
        kind => unreachable!("no model or state of this project holds {kind:?}"),
    };
    let mut data = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor
        .f_copy_data_u8(&mut data, tensor.numel())
        .map_err(|source| WeightsError::Tensor { name: name.clone(), source })?;
    let shape = tensor.size().iter().map(|&size| size as usize).collect();
    Ok(TensorBytes { name, dtype, shape, data: Cow::Owned(data) })
}

fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64)
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F32 => Some(Kind::Float),
        Dtype::F16 => Some(Kind::Half),
        Dtype::BF16 => Some(Kind::BFloat16),
        Dtype::F64 => Some(Kind::Double),
        Dtype::I64 => Some(Kind::Int64),
        Dtype::I32 => Some(Kind::Int),
        Dtype::U8 => Some(Kind::Uint8),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::layers;

    fn saved(tensors: &[(&str, Tensor)]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        let named = tensors.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.shallow_clone()));
        save_tensors(&path, named, None).unwrap();
        (folder, path)
    }

    fn model() -> (nn::VarStore, layers::Linear) {
        let vs = nn::VarStore::new(Device::Cpu);
        let linear = layers::linear(&(vs.root() / "proj"), 2, 3);
        (vs, linear)
    }

    fn zeros(shape: &[i64]) -> Tensor {
        Tensor::zeros(shape, (Kind::Float, Device::Cpu))
    }

    #[test]
    fn loaded_weights_reach_the_layers() {
        let weight = Tensor::from_slice(&[1f32, 2., 3., 4., 5., 6.]).view([3, 2]);
        let (_folder, path) = saved(&[("proj.weight", weight), ("proj.bias", zeros(&[3]))]);
        let (vs, linear) = model();
        Checkpoint::open(&path).unwrap().load_into(&vs).unwrap();
        let out = Tensor::from_slice(&[1f32, 1.]).view([1, 2]).apply(&linear);
        assert_eq!(Vec::<f32>::try_from(out.view([-1])).unwrap(), [3., 7., 11.]);
    }

    #[test]
    fn missing_unexpected_and_misshapen_tensors_are_refused_by_name() {
        let refusal = |tensors: &[(&str, Tensor)]| {
            let (_folder, path) = saved(tensors);
            Checkpoint::open(&path).unwrap().load_into(&model().0).unwrap_err().to_string()
        };
        let weight = || ("proj.weight", zeros(&[3, 2]));
        assert!(refusal(&[weight()]).contains("first `proj.bias`"));
        assert!(refusal(&[weight(), ("proj.bias", zeros(&[3])), ("extra", zeros(&[1]))]).contains("first `extra`"));
        assert!(refusal(&[weight(), ("proj.bias", zeros(&[1]))]).contains("[1] in the file, [3] in the model"));
    }

    #[test]
    fn unexpected_tensors_go_by_their_names_in_the_file() {
        let refusal = |extra: &str| {
            let tensors = [("weight", zeros(&[3, 2])), ("bias", zeros(&[3])), (extra, zeros(&[3]))];
            let (_folder, path) = saved(&tensors);
            let own = |name: &str| name.strip_prefix("old.").unwrap_or(name).to_owned();
            let checkpoint = Checkpoint::open(&path).unwrap().renamed(|name| Some(format!("proj.{}", own(name))));
            checkpoint.load_into(&model().0).unwrap_err()
        };
        for (extra, named) in [("extra", "extra"), ("old.bias", "bias")] {
            let error = refusal(extra);
            assert!(matches!(&error, WeightsError::Unexpected { names, .. } if names == &[named]), "{error}");
        }
    }

    #[test]
    fn the_stores_kind_decides() {
        let (_folder, path) = saved(&[("proj.weight", zeros(&[3, 2])), ("proj.bias", zeros(&[3]))]);
        let mut vs = nn::VarStore::new(Device::Cpu);
        vs.set_kind(Kind::Half);
        let _linear = layers::linear(&(vs.root() / "proj"), 2, 3);
        Checkpoint::open(&path).unwrap().load_into(&vs).unwrap();
        assert!(vs.variables().values().all(|tensor| tensor.kind() == Kind::Half));
    }
}
