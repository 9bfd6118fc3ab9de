//! What projections read of references.

use ipa_core::tch::{Device, Kind, Tensor};

/// What of a picture an image encoder is to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageFeatures {
    /// The projected embedding, one vector a picture: what the picture is about.
    Embedding,
    /// The features before the encoder's last layer, one vector a patch and one for the whole: details too.
    Penultimate,
}

impl ImageFeatures {
    /// Dimensions of one picture's features.
    pub fn dimensions(self) -> usize {
        match self {
            Self::Embedding => 1,
            Self::Penultimate => 2,
        }
    }
}

/// References as a projection reads them: what an image encoder says of pictures, who is in them, or both.
///
/// # Shapes
/// One reference a row, `[batch, ..]`, or several to a row, `[batch, images, ..]`; the same in both fields.
#[derive(Debug)]
pub struct Features {
    /// Embeddings `[.., width]` or penultimate features `[.., patches, width]`, not normalised.
    pub image: Option<Tensor>,
    /// Identity vectors of a face recogniser (ArcFace), `[.., 512]`, of unit length for all but the adapter called
    /// portrait-unnorm.
    pub face: Option<Tensor>,
    /// How much FaceID-Plus v2 takes of the face's picture beside the identity, the reference's `s_scale`: 1 as
    /// trained. Others ignore it.
    pub structure: f64,
}

impl Features {
    /// Of pictures alone.
    pub fn image(features: &Tensor) -> Self {
        Self { image: Some(features.shallow_clone()), face: None, structure: 1.0 }
    }

    /// Of faces alone.
    pub fn face(vectors: &Tensor) -> Self {
        Self { image: None, face: Some(vectors.shallow_clone()), structure: 1.0 }
    }

    /// The parts that are there, changed.
    pub fn map(&self, change: impl Fn(&Tensor) -> Tensor) -> Self {
        Self {
            image: self.image.as_ref().map(&change),
            face: self.face.as_ref().map(&change),
            structure: self.structure,
        }
    }

    pub(crate) fn to(&self, device: Device, kind: Kind) -> Self {
        self.map(|tensor| tensor.to_device(device).to_kind(kind))
    }
}

impl From<&Tensor> for Features {
    fn from(features: &Tensor) -> Self {
        Self::image(features)
    }
}
