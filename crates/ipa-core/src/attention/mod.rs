//! Scaled dot-product attention and the reshapes around it.

#[cfg(target_arch = "x86_64")]
mod backward;
#[cfg(target_arch = "x86_64")]
mod forward;
#[cfg(target_arch = "x86_64")]
mod own;

use tch::{Device, Kind, Tensor};

use crate::autograd::{is_wanted, with_backward};

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
    if is_wanted(query) && is_for_remaking(query, key) && is_for_remaking(query, value) {
        return remade(query, key, value);
    }
    Tensor::scaled_dot_product_attention(query, key, value, None::<&Tensor>, 0.0, false, None, false)
}

/// Whether the kernel that [`remade`] calls takes these, as far as it does not ask itself, and no gradient of them is wanted.
fn is_for_remaking(query: &Tensor, other: &Tensor) -> bool {
    let is_plain = |tensor: &Tensor| {
        (tensor.device(), tensor.kind(), tensor.dim()) == (Device::Cpu, Kind::Float, 4) && tensor.stride()[3] == 1
    };
    let are_alike = || query.size()[..2] == other.size()[..2] && query.size()[3] == other.size()[3];
    !other.requires_grad() && is_plain(query) && is_plain(other) && are_alike()
}

/// The attention of queries to what has no gradient, as a caption's tokens: of few keys, what the way back reads of the
/// result is sooner made again than kept.
fn remade(query: &Tensor, key: &Tensor, value: &Tensor) -> Tensor {
    let attended = |[query, key, value]: [&Tensor; 3]| {
        Tensor::internal_scaled_dot_product_flash_attention_for_cpu(
            query,
            key,
            value,
            0.0,
            false,
            None::<&Tensor>,
            None,
        )
    };
    with_backward(query, |query| {
        let [own, key, value] = [query, key, value].map(Tensor::shallow_clone);
        let result = attended([&own, &key, &value]).0;
        let backward = move |gradient: &Tensor| {
            let (result, logsumexp) = attended([&own, &key, &value]);
            let gradients = Tensor::internal_scaled_dot_product_flash_attention_for_cpu_backward(
                gradient,
                &own,
                &key,
                &value,
                &result,
                &logsumexp,
                0.0,
                false,
                None::<&Tensor>,
                None,
            );
            gradients.0
        };
        (result, backward)
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::Draws;

    #[test]
    fn to_what_has_no_gradient_the_way_back_is_the_same() {
        let draw = |seed, shape: &[i64]| Draws::seeded(seed).normal(shape);
        let (query, key, value) = (draw(0, &[2, 3, 40, 20]), draw(1, &[2, 3, 7, 20]), draw(2, &[2, 3, 7, 20]));
        let way = |is_wanted: bool| {
            let query = query.copy().set_requires_grad(true);
            let key = key.copy().set_requires_grad(is_wanted);
            let result = attention(&query, &key, &value);
            (&result * draw(3, &result.size())).sum(None).backward();
            (result.detach(), query.grad())
        };
        assert_eq!(way(false), way(true));
    }
}
