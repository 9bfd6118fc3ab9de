//! Where in a picture a reference acts.

use std::cell::RefCell;

use ipa_core::tch::{Kind, Tensor};

/// A soft mask over the picture, at whatever size a layer needs it.
#[derive(Debug)]
pub struct RegionMask {
    mask: Tensor, // [1, 1, height, width]
    /// As layers asked for them, each `[queries]`.
    known: RefCell<Vec<Tensor>>,
}

impl RegionMask {
    /// `mask` is `[height, width]`, 1 where the reference acts, 0 where it does not.
    pub fn new(mask: &Tensor) -> Self {
        Self { mask: mask.to_kind(Kind::Float).unsqueeze(0).unsqueeze(0), known: RefCell::default() }
    }

    /// The mask for a layer of so many queries, `[queries]`.
    ///
    /// Parity: diffusers' `IPAdapterMaskProcessor.downsample`: bicubic without smoothing, so that values may leave 0 to 1;
    /// where height and width do not come out even, filled up with zeros.
    pub fn at(&self, queries: i64) -> Tensor {
        self.at_like(queries, &self.mask)
    }

    /// The same on the device and in the kind of another tensor, where it stays.
    pub(crate) fn at_like(&self, queries: i64, like: &Tensor) -> Tensor {
        let what = (queries, like.device(), like.kind());
        let is_it = |mask: &&Tensor| (mask.size()[0], mask.device(), mask.kind()) == what;
        let mut known = self.known.borrow_mut();
        if let Some(mask) = known.iter().find(is_it) {
            return mask.shallow_clone();
        }
        let mask = self.downsampled(queries).to_device(like.device()).to_kind(like.kind());
        known.push(mask.shallow_clone());
        mask
    }

    /// The same mask again.
    pub fn shared(&self) -> Self {
        let known = self.known.borrow().iter().map(Tensor::shallow_clone).collect();
        Self { mask: self.mask.shallow_clone(), known: RefCell::new(known) }
    }

    fn downsampled(&self, queries: i64) -> Tensor {
        let (mask_height, mask_width) = (self.mask.size()[2], self.mask.size()[3]);
        let (height, width) = layer_size(mask_height, mask_width, queries);
        let mask = self.mask.upsample_bicubic2d([height, width], false, None, None).flatten(0, 3);
        match queries - height * width {
            missing if missing > 0 => mask.constant_pad_nd([0, missing]),
            _ => mask.narrow(0, 0, queries),
        }
    }
}

/// Height and width of a layer of so many queries in a picture of this size.
///
/// A layer of a UNet on latents of an eighth, halved some times, is told exactly; diffusers goes by proportions in every
/// case, which stretches masks where sides do not come out even.
fn layer_size(mask_height: i64, mask_width: i64, queries: i64) -> (i64, i64) {
    let halved = |side: i64, times: u32| (side / 8 + (1 << times) - 1) >> times; // rounded up
    let exact = (0..8).map(|times| (halved(mask_height, times), halved(mask_width, times)));
    if let Some(size) = exact.into_iter().find(|(height, width)| height * width == queries) {
        return size;
    }
    let ratio = mask_width as f64 / mask_height as f64;
    let height = ((queries as f64 / ratio).sqrt() as i64).max(1);
    let height = height + i64::from(queries % height != 0);
    (height, (queries / height).max(1))
}
