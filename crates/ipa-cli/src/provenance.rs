//! Which files drew a picture: their names and digests, computed beside the work and remembered.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::UNIX_EPOCH;

use anyhow::{Result, anyhow};
use ipa_formats::{ComponentFiles, FormatError, Numbering, sha256_file, sha256_text, write_atomically};
use ipa_sample::{AdapterRecord, AdapterSource, FileRecord, GenerateRequest, ModelRecord, Record};

use crate::args::ModelArgs;
use crate::model::{ModelSource, POCKET};

/// Digests of larger files are remembered, as long as their sizes and times stay.
const REMEMBERED_BYTES: u64 = 1 << 24;

/// Files that a command draws with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    model: Named,
    vae: Option<Named>,
    tokenizer: Option<Named>,
    adapter: Option<(Named, AdapterSource)>,
    image_encoder: Option<Named>,
    pictures: Vec<FileRecord>,
    /// Others that the request names.
    others: Vec<Named>,
}

/// What the user calls something, and the files that it consists of.
#[derive(Debug, Clone, Default)]
struct Named {
    name: PathBuf,
    files: Vec<PathBuf>,
}

/// What the records of all pictures of a command have in common.
#[derive(Debug, Clone)]
pub(crate) struct Provenance {
    model: ModelRecord,
    adapter: Option<AdapterRecord>,
    image_encoder: Option<FileRecord>,
    pictures: Vec<FileRecord>,
    files: Vec<FileRecord>,
}

impl Sources {
    /// Those of a command. What the pocket model brings goes by its name.
    ///
    /// # Errors
    /// If a file of the model cannot be found.
    pub(crate) fn new(
        args: &ModelArgs,
        source: &ModelSource,
        adapter: Option<&AdapterSource>,
        request: &GenerateRequest,
    ) -> Result<Self> {
        let own_adapter = |file: &Path| source.adapter.as_deref() == Some(file);
        let adapter = adapter.map(|adapter| {
            let file = &adapter.file;
            let name = if own_adapter(file) { POCKET.into() } else { file.clone() };
            (Named { name, files: vec![file.clone()] }, adapter.clone())
        });
        let model = PathBuf::from(args.name()?);
        let encoder = match (&args.image_encoder, source.files.folder("image_encoder")) {
            (Some(folder), _) => Some((folder.clone(), encoder_files(folder, None)?)),
            (None, Some(own)) => {
                let processor = source.files.folder("feature_extractor");
                Some((model.clone(), encoder_files(&own, processor.as_deref())?))
            }
            (None, None) => None,
        };
        let encoder = encoder
            .filter(|_| adapter.is_some() || !request.image_prompts.is_empty())
            .map(|(name, files)| Named { name, files });
        let vae = args.vae.clone().zip(source.files.vae_files()?);
        let tokenizer = source.files.tokenizer_files()?;
        Ok(Self {
            model: Named { name: model, files: source.files.own_files()? },
            vae: vae.map(|(name, files)| Named { name, files }),
            tokenizer: tokenizer.map(|(name, files)| Named { name, files }),
            adapter,
            image_encoder: encoder,
            pictures: pictures(request)?,
            others: others(request)?,
        })
    }

    /// Computes the digests on a thread of its own.
    pub(crate) fn digested(self, args: &ModelArgs) -> JoinHandle<Result<Provenance, FormatError>> {
        let args = args.clone();
        std::thread::spawn(move || self.provenance(&args))
    }

    fn provenance(self, args: &ModelArgs) -> Result<Provenance, FormatError> {
        let known = Remembered::open();
        let record = |named: &Named| -> Result<FileRecord, FormatError> {
            Ok(FileRecord { file: named.name.clone(), sha256: known.digest(&named.files)? })
        };
        Ok(Provenance {
            model: ModelRecord {
                file: record(&self.model)?,
                vae: self.vae.as_ref().map(record).transpose()?,
                tokenizer: self.tokenizer.as_ref().map(record).transpose()?,
                ema: args.ema,
                prediction_type: args.known_prediction(),
            },
            adapter: self.adapter.as_ref().map(|(named, source)| adapter_record(record(named)?, source)).transpose()?,
            image_encoder: self.image_encoder.as_ref().map(record).transpose()?,
            pictures: self.pictures,
            files: self.others.iter().map(record).collect::<Result<_, _>>()?,
        })
    }
}

fn adapter_record(file: FileRecord, source: &AdapterSource) -> Result<AdapterRecord, FormatError> {
    let record = |file: &PathBuf| Ok(FileRecord { file: file.clone(), sha256: sha256_file(file)? });
    let numbering = (source.numbering != Numbering::Published).then_some(source.numbering);
    Ok(AdapterRecord { file, lora: source.lora.as_ref().map(record).transpose()?, variant: source.variant, numbering })
}

/// Identity vectors, embeddings, and the adapters of `image_prompts` with what belongs to them.
fn others(request: &GenerateRequest) -> Result<Vec<Named>, FormatError> {
    let one = |file: &Path| Named { name: file.to_owned(), files: vec![file.to_owned()] };
    let mut others: Vec<Named> = request.tensor_files().into_iter().map(one).collect();
    for source in request.adapters() {
        others.extend([Some(&source.file), source.lora.as_ref()].into_iter().flatten().map(|file| one(file)));
        if let Some(folder) = &source.image_encoder {
            others.push(Named { name: folder.clone(), files: encoder_files(folder, None)? });
        }
    }
    others.sort_by(|a, b| a.name.cmp(&b.name));
    others.dedup_by(|a, b| a.name == b.name);
    Ok(others)
}

/// Weights and settings of an image encoder, whose preprocessing may lie in a folder of its own.
fn encoder_files(folder: &Path, processor: Option<&Path>) -> Result<Vec<PathBuf>, FormatError> {
    let processor = processor.map(ipa_formats::settings_files).unwrap_or_default();
    Ok([ComponentFiles::from(folder).files()?, processor].concat())
}

/// The pictures that a request names.
///
/// # Errors
/// [`FormatError`] if one cannot be read.
pub(crate) fn pictures(request: &GenerateRequest) -> Result<Vec<FileRecord>, FormatError> {
    let own = request.images.iter().chain(&request.init_image).chain(&request.mask);
    let files = own.map(PathBuf::as_path).chain(request.named_pictures());
    files.map(|file| Ok(FileRecord { file: file.to_owned(), sha256: sha256_file(file)? })).collect()
}

/// The digests, once they are there.
///
/// # Errors
/// If a file could not be read.
pub(crate) fn joined(digests: JoinHandle<Result<Provenance, FormatError>>) -> Result<Provenance> {
    Ok(digests.join().map_err(|_| anyhow!("the digests of the model's files could not be computed"))??)
}

/// The digest of a model's folder: of its weights and settings.
///
/// # Errors
/// [`FormatError`] if there are none, or one cannot be read.
pub(crate) fn folder_digest(folder: &Path) -> Result<String, FormatError> {
    Remembered::open().digest(&ComponentFiles::from(folder).files()?)
}

impl Provenance {
    /// The digest of the base model's files.
    pub(crate) fn model_digest(&self) -> &str {
        &self.model.file.sha256
    }

    /// A record completed by these files.
    pub(crate) fn of(&self, record: Record) -> Record {
        Record {
            model: Some(self.model.clone()),
            adapter: self.adapter.clone(),
            image_encoder: self.image_encoder.clone(),
            pictures: self.pictures.clone(),
            files: self.files.clone(),
            ..record
        }
    }
}

/// Digests of large files by path, size and time, in the user's cache folder.
#[derive(Debug)]
struct Remembered {
    path: Option<PathBuf>,
    digests: BTreeMap<String, String>,
}

impl Remembered {
    /// Whatever cannot be read is not remembered.
    fn open() -> Self {
        let path = dirs::cache_dir().map(|cache| cache.join("ipa/digests.json"));
        let text = path.as_deref().and_then(|path| fs::read(path).ok()).unwrap_or_default();
        Self { path, digests: serde_json::from_slice(&text).unwrap_or_default() }
    }

    /// That of a file, or of the digests of several.
    fn digest(&self, files: &[PathBuf]) -> Result<String, FormatError> {
        let digests = files.iter().map(|file| self.file(file)).collect::<Result<Vec<_>, _>>()?;
        Ok(match &digests[..] {
            [only] => only.clone(),
            several => sha256_text(&several.concat()),
        })
    }

    fn file(&self, file: &Path) -> Result<String, FormatError> {
        let key = key(file).filter(|_| self.path.is_some());
        if let Some(known) = key.as_ref().and_then(|key| self.digests.get(key)) {
            return Ok(known.clone());
        }
        let digest = sha256_file(file)?;
        if let (Some(key), Some(path)) = (key, &self.path) {
            let mut digests = Self::open().digests;
            digests.insert(key, digest.clone());
            // It is computed again next time if this fails.
            let _ = fs::create_dir_all(path.parent().unwrap_or(Path::new("")));
            let _ = write_atomically(path, |out| out.write_all(serde_json::to_string(&digests)?.as_bytes()));
        }
        Ok(digest)
    }
}

/// What a large file is remembered by.
fn key(file: &Path) -> Option<String> {
    let found = fs::metadata(file).ok().filter(|found| found.len() >= REMEMBERED_BYTES)?;
    let time = found.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(format!("{} {} {}", fs::canonicalize(file).ok()?.display(), found.len(), time.as_nanos()))
}
