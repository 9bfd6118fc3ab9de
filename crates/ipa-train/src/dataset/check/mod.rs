//! What is to be known of a dataset before it is trained on.

mod duplicates;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use image::{RgbImage, imageops};
use image_hasher::{HashAlg, Hasher, HasherConfig};
use rayon::prelude::*;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{DataError, Dataset, Found, Source};
use duplicates::{near_duplicates, same};

/// Side of what a perceptual hash is computed from: it compares places, not details.
const HASHED_SIDE: u32 = 64;

/// The end of a caption that a model does not read, if there is one.
pub type Overflow<'a> = dyn Fn(&str) -> Option<String> + Sync + 'a;

/// What is remarked on.
#[derive(Clone, Copy)]
pub struct CheckSettings<'a> {
    /// Pictures with a shorter side are small.
    pub min_side: u32,
    /// Pictures with a longer side of more than this many shorter ones are long.
    pub max_aspect: f64,
    /// What a model does not read of a caption, if one is known.
    pub overflow: Option<&'a Overflow<'a>>,
}

impl fmt::Debug for CheckSettings<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let Self { min_side, max_aspect, .. } = self;
        formatter.debug_struct("CheckSettings").field("min_side", min_side).field("max_aspect", max_aspect).finish()
    }
}

/// Something about a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// A file of the row cannot be used: the fault, with its cause.
    Broken(String),
    /// The picture is smaller than it should be.
    Small,
    /// The picture is much longer one way than the other.
    Long,
    /// The mask, of this width and height, has another shape than its picture.
    MaskShape(u32, u32),
    /// The file is that of an earlier row, byte by byte.
    Copy(String),
    /// It looks like the picture of an earlier row: by so many of 64 bits they differ.
    Near(String, u32),
    /// The caption says nothing.
    NoText,
    /// The model does not read this end of the caption.
    Cut(String),
    /// So many rows have this caption.
    Repeated(usize),
    /// Nothing is said of a licence.
    NoLicense,
    /// Nobody's consent is recorded, or it is refused.
    NoConsent,
}

impl Finding {
    /// All kinds in the order they are told in, faults first.
    pub const KINDS: [&'static str; 11] = [
        "broken file",
        "small picture",
        "long picture",
        "mask of another shape",
        "copy of a file",
        "near duplicate",
        "empty caption",
        "caption too long",
        "repeated caption",
        "no licence",
        "no consent",
    ];

    /// The name of its kind.
    pub fn kind(&self) -> &'static str {
        Self::KINDS[match self {
            Self::Broken(_) => 0,
            Self::Small => 1,
            Self::Long => 2,
            Self::MaskShape(..) => 3,
            Self::Copy(_) => 4,
            Self::Near(..) => 5,
            Self::NoText => 6,
            Self::Cut(_) => 7,
            Self::Repeated(_) => 8,
            Self::NoLicense => 9,
            Self::NoConsent => 10,
        }]
    }

    /// Whether the row cannot be trained on.
    pub fn is_fault(&self) -> bool {
        matches!(self, Self::Broken(_))
    }

    /// What there is to say beyond the kind; may be empty.
    pub fn detail(&self) -> String {
        match self {
            Self::Broken(fault) => fault.clone(),
            Self::MaskShape(width, height) => format!("{width} x {height}"),
            Self::Copy(key) => format!("of {key}"),
            Self::Near(key, bits) => format!("of {key}, {bits} of 64 bits"),
            Self::Cut(lost) => format!("not read: \"{lost}\""),
            Self::Repeated(times) => format!("{times} times"),
            Self::Small | Self::Long | Self::NoText | Self::NoLicense | Self::NoConsent => String::new(),
        }
    }
}

/// A row and what was found.
#[derive(Debug, Clone)]
pub struct CheckedRow {
    /// Its number in the dataset.
    pub row: usize,
    /// What it is called.
    pub key: String,
    /// Its caption.
    pub text: String,
    /// Its picture, if the row can be read.
    pub picture: Option<Source>,
    /// Size of the picture, upright, if it can be read.
    pub size: Option<(u32, u32)>,
    /// What was found.
    pub findings: Vec<Finding>,
}

/// What was found in a whole dataset.
#[derive(Debug)]
pub struct DatasetCheck {
    /// Rows and shards that cannot be used at all.
    pub faults: Vec<DataError>,
    /// All others.
    pub rows: Vec<CheckedRow>,
    /// Fields that mean nothing here, with the number of rows that have them.
    pub unknown_fields: BTreeMap<String, usize>,
    /// Whether any row names a licence.
    pub has_licenses: bool,
    /// Whether any row records consent.
    pub has_consents: bool,
}

impl DatasetCheck {
    /// The faults of rows and shards that cannot be used at all, each with its causes.
    pub fn told_faults(&self) -> Vec<String> {
        self.faults.iter().map(chain).collect()
    }

    /// Whether there is anything to train on and nothing in its way.
    pub fn is_usable(&self) -> bool {
        let is_whole = |row: &CheckedRow| !row.findings.iter().any(Finding::is_fault);
        self.faults.is_empty() && !self.rows.is_empty() && self.rows.iter().all(is_whole)
    }

    /// The rows with findings of a kind, and the first such finding of each.
    pub fn of_kind(&self, kind: &str) -> Vec<(&CheckedRow, &Finding)> {
        let of_row = |row: &'_ CheckedRow| row.findings.iter().position(|finding| finding.kind() == kind);
        self.rows.iter().filter_map(|row| of_row(row).map(|place| (row, &row.findings[place]))).collect()
    }
}

/// A row's look, to be compared with others'.
struct Look {
    file: [u8; 32],
    hash: u64,
}

/// Opens what can be used of a dataset, decodes every picture and compares all; `progress` hears of (rows done, rows).
///
/// # Errors
/// [`DataError`] if nothing can be said of its rows.
pub fn check_dataset(
    path: &Path,
    settings: CheckSettings,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<DatasetCheck, DataError> {
    let (dataset, faults) = Dataset::open_with_faults(path)?;
    let hasher = HasherConfig::new().hash_alg(HashAlg::Gradient).hash_size(8, 8).to_hasher();
    let done = AtomicUsize::new(0);
    let check = |row| {
        let checked = check_row(&dataset, row, settings, &hasher);
        progress(done.fetch_add(1, Ordering::Relaxed) + 1, dataset.len());
        checked
    };
    let checked: Vec<_> = (0..dataset.len()).into_par_iter().map(check).collect();
    let mut unknown_fields = BTreeMap::new();
    let (mut has_licenses, mut has_consents) = (false, false);
    let (mut rows, mut looks) = (Vec::with_capacity(checked.len()), Vec::with_capacity(checked.len()));
    for Checked { row, look, unknown } in checked {
        unknown.into_iter().for_each(|field| *unknown_fields.entry(field).or_default() += 1);
        let is_read = row.findings.iter().all(|finding| !matches!(finding, Finding::Broken(_)));
        has_licenses |= is_read && !row.findings.contains(&Finding::NoLicense);
        has_consents |= is_read && !row.findings.contains(&Finding::NoConsent);
        rows.push(row);
        looks.push(look);
    }
    compare(&mut rows, &looks);
    Ok(DatasetCheck { faults, rows, unknown_fields, has_licenses, has_consents })
}

struct Checked {
    row: CheckedRow,
    look: Option<Look>,
    unknown: Vec<String>,
}

fn check_row(dataset: &Dataset, row: usize, settings: CheckSettings, hasher: &Hasher) -> Checked {
    let Found { key, fields, picture, reference, mask, id_embed } = match dataset.found(row) {
        Ok(found) => found,
        Err(fault) => {
            let findings = vec![Finding::Broken(chain(&fault))];
            let row =
                CheckedRow { row, key: format!("row {row}"), text: String::new(), picture: None, size: None, findings };
            return Checked { row, look: None, unknown: Vec::new() };
        }
    };
    let mut findings = Vec::new();
    let mut look = None;
    let mut size = None;
    match picture_of(&picture) {
        Ok((picture, file)) => {
            size = Some(picture.dimensions());
            look = Some(Look { file, hash: hash(hasher, &picture) });
        }
        Err(fault) => findings.push(Finding::Broken(chain(&fault))),
    }
    let others = [
        reference.map(|reference| reference.picture().map(drop)),
        id_embed.map(|vectors| vectors.id_embeds().map(drop)),
    ];
    findings.extend(others.into_iter().flatten().filter_map(|read| Some(Finding::Broken(chain(&read.err()?)))));
    findings.extend(mask.and_then(|mask| of_mask(&mask, size)));
    if let Some((width, height)) = size {
        let (short, long) = (width.min(height), width.max(height));
        findings.extend((short < settings.min_side).then_some(Finding::Small));
        findings.extend((f64::from(long) > settings.max_aspect * f64::from(short)).then_some(Finding::Long));
    }
    let text = fields.text.unwrap_or_default();
    findings.extend(text.trim().is_empty().then_some(Finding::NoText));
    findings.extend(settings.overflow.and_then(|overflow| overflow(&text)).map(Finding::Cut));
    findings.extend((!says_something(fields.license.as_ref())).then_some(Finding::NoLicense));
    findings.extend((!says_something(fields.consent.as_ref())).then_some(Finding::NoConsent));
    Checked {
        row: CheckedRow { row, key, text, picture: Some(picture), size, findings },
        look,
        unknown: fields.unknown.0,
    }
}

fn picture_of(source: &Source) -> Result<(RgbImage, [u8; 32]), DataError> {
    let bytes = source.bytes()?;
    let picture = ipa_clip::preprocess::decode_image(&bytes, &source.path())?;
    Ok((picture, Sha256::digest(&bytes).into()))
}

fn of_mask(mask: &Source, size: Option<(u32, u32)>) -> Option<Finding> {
    match mask.picture() {
        Err(fault) => Some(Finding::Broken(chain(&fault))),
        Ok(mask) => {
            let (width, height) = mask.dimensions();
            // Equal shapes up to a pixel of rounding, whatever the size.
            let fits = |size: (u32, u32)| {
                let expected = f64::from(width) * f64::from(size.1) / f64::from(size.0.max(1));
                (expected - f64::from(height)).abs() <= 1.0
            };
            (!size.is_none_or(fits)).then_some(Finding::MaskShape(width, height))
        }
    }
}

fn hash(hasher: &Hasher, picture: &RgbImage) -> u64 {
    let small = imageops::thumbnail(picture, HASHED_SIDE, HASHED_SIDE);
    let hash = hasher.hash_image(&small);
    hash.as_bytes().iter().fold(0, |bits, &byte| bits << 8 | u64::from(byte))
}

fn says_something(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.trim().is_empty(),
        Some(_) => true,
    }
}

/// What is known of a row only beside all others.
fn compare(rows: &mut [CheckedRow], looks: &[Option<Look>]) {
    let copies = same(looks.iter().map(|look| look.as_ref().map(|look| look.file)));
    let hashes: Vec<Option<u64>> = looks.iter().map(|look| look.as_ref().map(|look| look.hash)).collect();
    let near = near_duplicates(&hashes);
    let mut texts: HashMap<&str, usize> = HashMap::new();
    rows.iter().for_each(|row| *texts.entry(row.text.trim()).or_default() += 1);
    let times: Vec<usize> = rows.iter().map(|row| texts[row.text.trim()]).collect();
    for row in 0..rows.len() {
        let finding = match (copies[row], near[row]) {
            (Some(earlier), _) => Some(Finding::Copy(rows[earlier].key.clone())),
            (None, Some((earlier, bits))) => Some(Finding::Near(rows[earlier].key.clone(), bits)),
            (None, None) => None,
        };
        rows[row].findings.extend(finding);
        if times[row] > 1 && !rows[row].text.trim().is_empty() {
            rows[row].findings.push(Finding::Repeated(times[row]));
        }
    }
}

/// A fault with its causes.
pub(super) fn chain(fault: &DataError) -> String {
    let causes = std::iter::successors(std::error::Error::source(fault), |cause| cause.source());
    causes.fold(fault.to_string(), |text, cause| format!("{text}: {cause}"))
}
