//! References in a report's folder, with what the CLIP that scores says of them.

use std::path::Path;

use anyhow::Result;
use ipa_clip::ClipModel;
use ipa_metrics::evaluation::Set;

use super::cases::Case;
use super::names::file_name;
use crate::output;
use crate::scores::{picture_embedding, text_embedding};

/// A reference that is drawn after.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) set: Set,
    pub(super) case: Case,
    /// The reference's file, relative to the report.
    pub(super) reference_file: String,
    /// Of the reference.
    pub(super) embedding: Vec<f32>,
    /// In a protocol run.
    pub(super) captions: Vec<String>,
    pub(super) caption_embeddings: Vec<Vec<f32>>,
}

impl Subject {
    /// Writes a case's reference into the report's folder, which is there, and looks at it.
    ///
    /// # Errors
    /// If the file cannot be written or a caption cannot be read.
    pub(super) fn new(set: Set, case: Case, captions: &[String], (folder, clip): (&Path, &ClipModel)) -> Result<Self> {
        let reference_file = format!("references/{}.png", file_name_of(set, &case.name));
        output::write_picture(&folder.join(&reference_file), &case.reference)?;
        let caption_embeddings = captions.iter().map(|caption| text_embedding(clip, caption)).collect::<Result<_>>()?;
        let embedding = picture_embedding(clip, &case.reference);
        Ok(Self { set, case, reference_file, embedding, captions: captions.to_vec(), caption_embeddings })
    }

    /// The file of a picture drawn after it, relative to the report.
    pub(super) fn picture_file(&self, method: &str, details: &str) -> String {
        format!("pictures/{}/{}-{details}.png", file_name(method), file_name_of(self.set, &self.case.name))
    }
}

/// Tests have names of our own.
fn file_name_of(set: Set, case: &str) -> String {
    match set {
        Set::Tests => case.replace(' ', "-"),
        Set::HeldOut => format!("held-out-{}", file_name(case)),
        Set::Protocol | Set::Training => file_name(case),
    }
}
