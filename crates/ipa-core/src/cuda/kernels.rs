//! Kernels of our own, for what libtorch has none or a slow one.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use tch::{Device, Kind, Tensor};

use super::compiled::{Compiled, Launch};
use crate::device::compute_capability;

const SOURCE: &str = include_str!("kernels.cu");
const NAMES: [&str; 3] = ["group_sums", "group_normed", "geglu"];
/// Threads of a block, at most.
const THREADS: i64 = 512;
/// Blocks that keep a card busy, two for each of the multiprocessors of the largest.
const BLOCKS: i64 = 264;
/// Numbers that a thread reads at once.
const EIGHT: i64 = 8;

/// Group normalisation of features `[batch, channels, height, width]` in half precision with channels last, then SiLU if asked
/// for; the result is laid out as they are. `None` if these are other features, or there are no kernels for this card.
///
/// Moments are added up in f64.
pub(crate) fn group_norm(
    hidden: &Tensor,
    [weight, bias]: [&Tensor; 2],
    (groups, eps): (i64, f64),
    is_silu: bool,
) -> Option<Tensor> {
    let device = card(hidden)?;
    let (batch, channels, height, width) = hidden.size4().ok()?;
    let eighths = channels / EIGHT;
    let is_last = hidden.permute([0, 2, 3, 1]).is_contiguous();
    let of_kind = |tensor: &Tensor| tensor.kind() == hidden.kind() && tensor.is_contiguous();
    if !is_last
        || hidden.numel() == 0
        || channels % EIGHT != 0
        || eighths > THREADS
        || !is_aligned(hidden)
        || !of_kind(weight)
        || !of_kind(bias)
    {
        return None;
    }
    let kernels = kernels(device, hidden.kind())?;
    let (positions, rows) = (height * width, (THREADS / eighths).max(1));
    let chunks = (BLOCKS / batch).clamp(1, (positions + rows - 1) / rows);
    let chunk = (positions + chunks - 1) / chunks;
    let chunks = (positions + chunk - 1) / chunk;
    let sums = Tensor::empty([batch, chunks, groups, 2], (Kind::Double, hidden.device()));
    let result = hidden.empty_like();
    let [grid, block] = [(chunks as u32, batch as u32), (eighths as u32, rows as u32)];
    let mut pointers = [hidden, &sums, &result, weight, bias].map(Tensor::data_ptr);
    let [from, sums, to, weight, bias] = pointers.each_mut().map(address);
    let mut sizes = [positions, chunk, groups, chunks, i64::from(is_silu)].map(|size| size as i32);
    let [positions, chunk, groups_given, chunks, is_silu] = sizes.each_mut().map(address);
    let mut eps = eps as f32;
    let shared = 2 * 4 * (rows * channels) as u32;
    // SAFETY: the parameters are those of `kernels.cu`, in their order; the tensors have the sizes that it is told.
    unsafe {
        let launch = Launch { grid, block, shared };
        kernels.launch("group_sums", device, launch, &mut [from, sums, positions, chunk, groups_given]).ok()?;
        let arguments =
            &mut [from, to, sums, weight, bias, positions, chunk, groups_given, chunks, address(&mut eps), is_silu];
        let launch = Launch { grid, block, shared: 2 * 4 * groups as u32 };
        kernels.launch("group_normed", device, launch, arguments).ok()?;
    }
    Some(result)
}

/// `value · gelu(gate)` of `[.., value; gate]` in half precision; `None` as for [`group_norm`].
pub(crate) fn geglu(projected: &Tensor) -> Option<Tensor> {
    const BLOCK: i64 = 256;
    let device = card(projected)?;
    let mut size = projected.size();
    let width = size.last().copied().unwrap_or_default() / 2;
    let is_suited = projected.is_contiguous() && is_aligned(projected) && width > 0 && width % EIGHT == 0;
    if !is_suited || projected.numel() == 0 {
        return None;
    }
    let kernels = kernels(device, projected.kind())?;
    *size.last_mut()? = width;
    let result = Tensor::empty(&size, (projected.kind(), projected.device()));
    let mut count = result.numel() as i64 / EIGHT;
    let mut eighths = (width / EIGHT) as i32;
    let (mut from, mut to) = (projected.data_ptr(), result.data_ptr());
    let grid = (u32::try_from((count + BLOCK - 1) / BLOCK).ok()?, 1);
    let launch = Launch { grid, block: (BLOCK as u32, 1), shared: 0 };
    let arguments = &mut [address(&mut from), address(&mut to), address(&mut eighths), address(&mut count)];
    // SAFETY: as in `group_norm`.
    unsafe { kernels.launch("geglu", device, launch, arguments) }.ok()?;
    Some(result)
}

/// The number of the card of features in half precision.
fn card(hidden: &Tensor) -> Option<usize> {
    match (hidden.device(), hidden.kind()) {
        (Device::Cuda(device), Kind::Half | Kind::BFloat16) if cfg!(target_os = "linux") => Some(device),
        _ => None,
    }
}

fn is_aligned(tensor: &Tensor) -> bool {
    tensor.data_ptr().addr().is_multiple_of(16)
}

fn address<T>(value: &mut T) -> *mut c_void {
    ptr::from_mut(value).cast()
}

/// Compiled at the first call for a card and a kind; `None` for good if that fails.
fn kernels(device: usize, kind: Kind) -> Option<Arc<Compiled>> {
    type Known = HashMap<(usize, bool), Option<Arc<Compiled>>>;
    static KNOWN: Mutex<Option<Known>> = Mutex::new(None);
    let is_half = kind == Kind::Half;
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default().entry((device, is_half));
    known.or_insert_with(|| Compiled::new(SOURCE, &options(device, is_half)?, &NAMES).ok().map(Arc::new)).clone()
}

fn options(device: usize, is_half: bool) -> Option<Vec<String>> {
    let (major, minor) = compute_capability(device)?;
    Some(vec![format!("--gpu-architecture=sm_{major}{minor}"), format!("-DHALF={}", u8::from(is_half))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::compiled::compiled;

    #[test]
    fn the_kernels_compile() {
        for half in 0..2 {
            match compiled(SOURCE, &["--gpu-architecture=sm_80".to_owned(), format!("-DHALF={half}")]) {
                Err(message) if message.contains("libnvrtc") => eprintln!("skipped: {message}"),
                found => assert!(found.is_ok_and(|binary| !binary.is_empty())),
            }
        }
    }
}
