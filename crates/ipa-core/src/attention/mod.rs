//! Scaled dot-product attention and the reshapes around it.

#[cfg(target_arch = "x86_64")]
mod backward;
#[cfg(target_arch = "x86_64")]
mod forward;
#[cfg(target_arch = "x86_64")]
mod own;

use tch::Tensor;

/// `softmax(Q Kᵀ / √head_dim) V` with every key visible to every query (arXiv:1706.03762 Eq. 1).
///
/// # Shapes
/// - `query`: `[batch, heads, queries, head_dim]`; `key`, `value`: `[batch, heads, keys, head_dim]`
/// - result: as `query`
pub fn attention(query: &Tensor, key: &Tensor, value: &Tensor) -> Tensor {
    #[cfg(target_arch = "x86_64")]
    if own::suits([query, key, value]) {
        return own::attention([query, key, value]);
    }
    Tensor::scaled_dot_product_attention(query, key, value, None::<&Tensor>, 0.0, false, None, false)
}

/// [`attention`] where a query sees the keys up to its own position only, as text towers use it.
pub fn causal_attention(query: &Tensor, key: &Tensor, value: &Tensor) -> Tensor {
    Tensor::scaled_dot_product_attention(query, key, value, None::<&Tensor>, 0.0, true, None, false)
}

/// `[batch, tokens, heads · head_dim]` → `[batch, heads, tokens, head_dim]`.
pub fn split_heads(hidden: &Tensor, heads: i64) -> Tensor {
    let (batch, tokens, width) = hidden.size3().expect("features are [batch, tokens, width]");
    hidden.view([batch, tokens, heads, width / heads]).transpose(1, 2)
}

/// The inverse of [`split_heads`].
pub fn merge_heads(hidden: &Tensor) -> Tensor {
    let (batch, heads, tokens, head_dim) = hidden.size4().expect("heads are [batch, heads, tokens, head_dim]");
    hidden.transpose(1, 2).reshape([batch, tokens, heads * head_dim])
}
