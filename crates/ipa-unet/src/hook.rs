//! The seam of the UNet.

use ipa_core::tch::Tensor;

/// A cross-attention layer, counted in execution order: down, mid, up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId(pub usize);

/// Listens at every cross-attention layer and may add to what it attended to.
pub trait CrossAttentionHook {
    /// `query` and result are `[batch, heads, tokens, head_dim]`; `None` leaves the layer alone.
    fn attend(&self, site: SiteId, query: &Tensor) -> Option<Tensor>;
}

/// Adds nothing anywhere: the plain UNet.
#[derive(Debug, Clone, Copy)]
pub struct NoHook;

impl CrossAttentionHook for NoHook {
    fn attend(&self, _site: SiteId, _query: &Tensor) -> Option<Tensor> {
        None
    }
}
