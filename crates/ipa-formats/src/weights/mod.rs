//! The weights of one component, in the file or files in which the reference libraries store them.

mod view;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

pub(crate) use view::{Made, Source, Unmade};

use view::Place;

use crate::{FormatError, TensorFile, TensorInfo, read_json};

/// Names of weights files, most wanted first: full precision before half, safetensors before pickles, one file before
/// an index of several.
const NAMES: [&str; 16] = [
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
    "pytorch_model.bin.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "model.fp16.safetensors",
    "diffusion_pytorch_model.safetensors.index.fp16.json",
    "model.safetensors.index.fp16.json",
    "diffusion_pytorch_model.fp16.bin",
    "pytorch_model.fp16.bin",
    "diffusion_pytorch_model.bin.index.fp16.json",
    "pytorch_model.bin.index.fp16.json",
];

/// More parts than any published model has.
const MAX_PARTS: usize = 1024;

/// Finds the weights in the folder of one component: a file, or the index of several.
///
/// # Errors
/// [`FormatError::NoWeights`] says what was looked for.
pub fn weights_file(component: &Path) -> Result<PathBuf, FormatError> {
    fs::read_dir(component).map_err(|source| FormatError::Read { path: component.to_owned(), source })?;
    let found = NAMES.iter().map(|name| component.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| FormatError::NoWeights {
        path: component.to_owned(),
        names: format!("{}, their .bin and .fp16 forms and indices of parts", NAMES[..2].join(", ")),
    })
}

/// Named tensors in a file, or in the files that an index lists; memory-mapped.
///
/// ```no_run
/// use ipa_formats::{Weights, weights_file};
///
/// let weights = Weights::open(&weights_file("stable-diffusion-v1-5/unet".as_ref())?)?;
/// for name in weights.names() {
///     println!("{name} {:?}", weights.info(name).map(|info| &info.shape));
/// }
/// # Ok::<(), ipa_formats::FormatError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Weights {
    path: PathBuf,
    sources: Vec<Source>,
    places: BTreeMap<String, Place>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Opens safetensors, what `torch.save` wrote, or the index (`*.json`) of several such files beside it.
    ///
    /// # Errors
    /// As [`TensorFile::open`]; [`FormatError::Json`] and [`FormatError::Parts`] for an index.
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        if path.extension().is_some_and(|extension| extension == "json") {
            return Self::open_parts(path);
        }
        let file = TensorFile::open(path)?;
        let places = file.names().map(|name| (name.to_owned(), Place::Own(0))).collect();
        Ok(Self { path: path.to_owned(), sources: vec![Source::File(Arc::new(file))], places })
    }

    fn open_parts(path: &Path) -> Result<Self, FormatError> {
        let fault = |problem: String| FormatError::Parts { path: path.to_owned(), problem };
        let index: Value = read_json(path)?;
        if index.get("weight_map").is_none() {
            return Err(FormatError::NotAnIndex { path: path.to_owned() });
        }
        let Index { weight_map } = read_json(path)?;
        let parts: Vec<&String> = weight_map.values().collect::<BTreeSet<_>>().into_iter().collect();
        if parts.len() > MAX_PARTS {
            return Err(fault(format!("it lists {} files, at most {MAX_PARTS} are read", parts.len())));
        }
        let open = |part: &&String| match is_plain_name(part) {
            true => TensorFile::open(&path.with_file_name(part)).map(Arc::new),
            false => Err(fault(format!("`{part}` is not the name of a file beside it"))),
        };
        let files = parts.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let mut places = BTreeMap::new();
        for (index, (part, file)) in parts.iter().zip(&files).enumerate() {
            for name in file.names() {
                if weight_map.get(name) != Some(part) {
                    return Err(fault(format!("{part} holds `{name}`, which is not listed there")));
                }
                places.insert(name.to_owned(), Place::Own(index));
            }
        }
        match weight_map.iter().find(|(name, _)| !places.contains_key(*name)) {
            Some((name, part)) => Err(fault(format!("{part} lacks `{name}`, which is listed there"))),
            None => Ok(Self { path: path.to_owned(), sources: files.into_iter().map(Source::File).collect(), places }),
        }
    }

    /// The file, or the index of several.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the files that hold the tensors lie.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.files().map(|file| file.path().to_owned()).collect()
    }

    /// Names of the tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Little-endian bytes of a tensor, row-major: borrowed where they lie so in the file, otherwise copied.
    pub fn data(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.made(name).ok()
    }

    /// The files that hold the tensors.
    pub(crate) fn files(&self) -> Box<dyn Iterator<Item = &Arc<TensorFile>> + '_> {
        Box::new(self.sources.iter().flat_map(|source| match source {
            Source::File(file) => Box::new(std::iter::once(file)),
            Source::Weights(weights) => weights.files(),
        }))
    }

    /// Lets the system take back the memory that holds what was read of the files; it is read again when touched.
    pub(crate) fn release(&self) {
        self.files().for_each(|file| file.release());
    }

    /// Element types and shapes of all tensors.
    pub fn tensors(&self) -> BTreeMap<String, TensorInfo> {
        self.names().filter_map(|name| Some((name.to_owned(), self.info(name)?.clone()))).collect()
    }

    /// Free text entries of the headers.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        self.files().flat_map(|file| file.metadata()).map(|(key, text)| (key.clone(), text.clone())).collect()
    }

    /// [`TensorFile::global_step`] of a single file.
    pub(crate) fn global_step(&self) -> Option<u64> {
        self.files().find_map(|file| file.global_step())
    }

    /// Length of all files in bytes.
    pub fn num_bytes(&self) -> u64 {
        self.files().map(|file| file.file_len()).sum()
    }
}

fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(only)), None) if only == name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Dtype, TensorBytes, write_safetensors};

    fn folder_with(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        names.iter().for_each(|name| fs::write(folder.path().join(name), "{}").unwrap());
        folder
    }

    /// Two parts of one tensor each, and an index with these entries.
    fn parts(entries: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, value) in [("a", 1), ("b", 2)] {
            let tensor =
                TensorBytes { name: name.to_owned(), dtype: Dtype::U8, shape: vec![1], data: vec![value].into() };
            write_safetensors(&folder.path().join(format!("{name}.safetensors")), vec![tensor], None).unwrap();
        }
        let weight_map: BTreeMap<_, _> = entries.iter().copied().collect();
        let index = serde_json::json!({ "metadata": { "total_size": 2 }, "weight_map": weight_map }).to_string();
        fs::write(folder.path().join(NAMES[3]), index).unwrap();
        folder
    }

    fn refusal(entries: &[(&str, &str)]) -> String {
        let folder = parts(entries);
        Weights::open(&weights_file(folder.path()).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn full_precision_goes_before_half_and_safetensors_before_pickles() {
        for (names, expected) in [
            (&["model.fp16.safetensors", "model.safetensors", "pytorch_model.bin"][..], "model.safetensors"),
            (&["model.fp16.safetensors", "pytorch_model.bin"], "pytorch_model.bin"),
            (&["model.safetensors.index.json", "pytorch_model.bin"], "model.safetensors.index.json"),
            (&["diffusion_pytorch_model.fp16.safetensors"], "diffusion_pytorch_model.fp16.safetensors"),
        ] {
            let folder = folder_with(names);
            assert_eq!(weights_file(folder.path()).unwrap(), folder.path().join(expected));
        }
    }

    #[test]
    fn missing_weights_say_what_was_looked_for() {
        let folder = folder_with(&["config.json"]);
        let error = weights_file(folder.path()).unwrap_err().to_string();
        assert!(error.contains("diffusion_pytorch_model.safetensors, model.safetensors"), "{error}");
        assert!(matches!(weights_file(&folder.path().join("unet")), Err(FormatError::Read { .. })));
    }

    #[test]
    fn parts_are_one() {
        let folder = parts(&[("a", "a.safetensors"), ("b", "b.safetensors")]);
        let weights = Weights::open(&weights_file(folder.path()).unwrap()).unwrap();
        assert!(weights.names().eq(["a", "b"]));
        assert_eq!((weights.data("a").as_deref(), weights.data("b").as_deref()), (Some(&[1][..]), Some(&[2][..])));
        assert_eq!(weights.info("b").unwrap().shape, [1]);
        assert!(weights.data("c").is_none());
    }

    #[test]
    fn an_index_that_does_not_fit_its_parts_is_refused() {
        let entries = [("a", "a.safetensors"), ("b", "b.safetensors")];
        assert!(refusal(&[entries[0], ("b", "a.safetensors")]).contains("a.safetensors lacks `b`"));
        assert!(refusal(&[entries[0], entries[1], ("c", "a.safetensors")]).contains("a.safetensors lacks `c`"));
        assert!(refusal(&[("other", "a.safetensors")]).contains("a.safetensors holds `a`"));
        assert!(refusal(&[entries[0], ("b", "gone.safetensors")]).contains("gone.safetensors"));
    }

    #[test]
    fn parts_lie_beside_their_index() {
        for elsewhere in ["../b.safetensors", "/etc/passwd", "sub/b.safetensors", "", ".", "..", "./b.safetensors"] {
            let error = refusal(&[("a", "a.safetensors"), ("b", elsewhere)]);
            assert!(error.contains("is not the name of a file beside it"), "{elsewhere}: {error}");
        }
    }
}
