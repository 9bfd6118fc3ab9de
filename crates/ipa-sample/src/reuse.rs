//! Which calls of a request run the whole UNet, and which take deep features from one before them (DeepCache,
//! arXiv:2312.00858).

use std::collections::BTreeMap;

use ipa_core::tch::Tensor;
use ipa_unet::{CallSize, Conditions, DeepFeatures, Operation, Unet, UnetConfig};

use crate::GenerateRequest;

/// What was asked of the UNet at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnetCall {
    /// Rows of the batch: a picture each, or under guidance two.
    pub rows: i64,
    /// What was run of it where deep features of an earlier call were taken; otherwise all.
    pub branch: Option<usize>,
}

impl UnetCall {
    /// Its products, at such latents and so many tokens; the batch is its own.
    pub fn operations(&self, unet: &UnetConfig, size: CallSize) -> Vec<Operation> {
        let size = CallSize { batch: self.rows, ..size };
        match self.branch {
            Some(branch) => unet.shallow_operations(size, branch),
            None => unet.operations(size),
        }
    }
}

/// Deep features from call to call.
#[derive(Debug)]
pub(crate) struct Reuse {
    interval: usize,
    branch: usize,
    /// By the first picture of a call.
    kept: BTreeMap<i64, Kept>,
}

/// What a whole call left.
#[derive(Debug)]
struct Kept {
    features: DeepFeatures,
    /// The image prompts that acted in it.
    acting: Vec<usize>,
    /// Calls since then.
    age: usize,
}

impl Reuse {
    /// `None` if all calls of the request are whole.
    pub(crate) fn of(request: &GenerateRequest) -> Option<Self> {
        let GenerateRequest { cache_interval: interval, cache_branch: branch, .. } = *request;
        (interval > 1).then(|| Self { interval, branch, kept: BTreeMap::new() })
    }

    /// The prediction for the pictures from `first` on, with what the call was.
    pub(crate) fn predict(
        &mut self,
        unet: &Unet,
        first: i64,
        acting: Vec<usize>,
        latents: &Tensor,
        conditions: &Conditions,
    ) -> (Tensor, UnetCall) {
        let rows = latents.size()[0];
        let kept = self.kept.remove(&first).and_then(|kept| kept.for_next(self.interval, rows, &acting));
        let (prediction, kept, branch) = match kept {
            Some(kept) => (unet.forward_from(&kept.features, latents, conditions), kept, Some(self.branch)),
            None => {
                let (prediction, features) = unet.forward_keeping(self.branch, latents, conditions);
                (prediction, Kept { features, acting, age: 0 }, None)
            }
        };
        self.kept.insert(first, kept);
        (prediction, UnetCall { rows, branch })
    }
}

impl Kept {
    /// As the next call can take them, unless it has to be whole: they are too old, something else acts, or guidance
    /// began, whose unconditional half nothing is known of. Where guidance ended, the conditional half is left.
    fn for_next(self, interval: usize, rows: i64, acting: &[usize]) -> Option<Self> {
        let Self { features, acting: before, age } = self;
        let is_usable = age + 1 < interval && before == acting && rows <= features.num_rows();
        is_usable.then(|| Self { features: features.last_rows(rows), acting: before, age: age + 1 })
    }
}
