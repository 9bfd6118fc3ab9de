//! Kernels of our own, for what libtorch has none or a slow one.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use tch::{Device, Kind, Tensor};

use super::CudaGraph;
use super::compiled::{Compiled, Launch};
use crate::device::compute_capability;

const SOURCE: &str = include_str!("kernels.cu");
const NAMES: [&str; 3] = ["group_sums", "group_normed", "geglu"];
/// Threads of a block, at most.
const THREADS: i64 = 512;
/// Blocks that keep a card busy: two for each of an H100's multiprocessors.
const BLOCKS: i64 = 264;
/// Numbers that a thread reads at once.
const EIGHT: i64 = 8;

/// Group normalisation of features `[batch, channels, height, width]` in half precision with channels last, then SiLU if asked
/// for; the result is laid out as they are. `None` if these are other features, or there are no kernels for this card.
///
/// Moments are added up in f32 by each thread, then in f64.
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
    let is_channels = |tensor: &Tensor| {
        (tensor.kind(), tensor.device()) == (hidden.kind(), hidden.device())
            && tensor.size() == [channels]
            && tensor.is_contiguous()
    };
    if !is_last
        || hidden.numel() == 0
        || channels % EIGHT != 0
        || eighths > THREADS
        || !is_aligned(hidden)
        || groups <= 0
        || channels % groups != 0
        || !is_channels(weight)
        || !is_channels(bias)
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

/// The number of the card of features in half precision, if it is the first: the driver launches on the card that is current
/// for CUDA, which libtorch leaves at the first between its operations.
fn card(hidden: &Tensor) -> Option<usize> {
    match hidden.device() {
        Device::Cuda(0) if cfg!(target_os = "linux") && is_half_on_card(hidden) => Some(0),
        _ => None,
    }
}

/// Whether features are in half precision on a card.
pub(crate) fn is_half_on_card(tensor: &Tensor) -> bool {
    matches!((tensor.device(), tensor.kind()), (Device::Cuda(_), Kind::Half | Kind::BFloat16))
}

fn is_aligned(tensor: &Tensor) -> bool {
    tensor.data_ptr().addr().is_multiple_of(16)
}

fn address<T>(value: &mut T) -> *mut c_void {
    ptr::from_mut(value).cast()
}

/// Why drawing in half precision on the first card goes without graphs or kernels of our own; `None` if it does not, or there is
/// no card.
pub fn what_slows_drawing() -> Option<String> {
    if !tch::Cuda::is_available() {
        return None;
    }
    // The driver compiles for a card that has been used.
    let _used = Tensor::zeros([1], (Kind::Float, Device::Cuda(0)));
    let kernels = compiled_once(0, Kind::Half).err();
    kernels.or_else(|| CudaGraph::check(0).err().map(|error| error.to_string()))
}

/// `None` for good if they cannot be compiled.
fn kernels(device: usize, kind: Kind) -> Option<Arc<Compiled>> {
    compiled_once(device, kind).ok()
}

/// At the first call for a card and a kind.
fn compiled_once(device: usize, kind: Kind) -> Result<Arc<Compiled>, String> {
    type Known = HashMap<(usize, bool), Result<Arc<Compiled>, String>>;
    static KNOWN: Mutex<Option<Known>> = Mutex::new(None);
    let is_half = kind == Kind::Half;
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default().entry((device, is_half));
    let compile = || Compiled::new(SOURCE, &options(device, is_half)?, &NAMES).map(Arc::new);
    known.or_insert_with(compile).clone()
}

fn options(device: usize, is_half: bool) -> Result<Vec<String>, String> {
    let (major, minor) = compute_capability(device).ok_or("the driver does not tell the card's compute capability")?;
    Ok(vec![format!("--gpu-architecture=sm_{major}{minor}"), format!("-DHALF={}", u8::from(is_half))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::compiled::compiled;
    use crate::device::load_cuda_backend;
    use crate::noise::Draws;

    #[test]
    fn the_kernels_compile() {
        for half in 0..2 {
            match compiled(SOURCE, &["--gpu-architecture=sm_80".to_owned(), format!("-DHALF={half}")]) {
                Err(message) if message.contains("no run-time compiler") => eprintln!("skipped: {message}"),
                found => assert!(found.is_ok_and(|binary| !binary.is_empty())),
            }
        }
    }

    /// On the first card, if there is one.
    fn on_card(kind: Kind, tensor: &Tensor) -> Option<Tensor> {
        load_cuda_backend();
        if !tch::Cuda::is_available() {
            eprintln!("skipped: there is no card");
            return None;
        }
        Some(tensor.to_device(Device::Cuda(0)).to_kind(kind))
    }

    fn error(found: &Tensor, expected: &Tensor) -> f64 {
        let expected = expected.to_kind(Kind::Float);
        ((found.to_kind(Kind::Float) - &expected).abs().max() / expected.abs().max()).double_value(&[])
    }

    #[test]
    fn the_norm_is_libtorchs() {
        for (kind, tolerance) in [(Kind::Half, 2e-3), (Kind::BFloat16, 2e-2)] {
            for (size, groups) in
                [([2, 320, 64, 64], 32), ([1, 2560, 8, 8], 32), ([3, 64, 5, 7], 8), ([300, 32, 3, 2], 1)]
            {
                let draw = |seed, shape: &[i64]| on_card(kind, &(Draws::seeded(seed).normal(shape) + 1.0));
                let Some(hidden) = draw(0, &size) else { return };
                let hidden = hidden.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
                let [weight, bias] = [1, 2].map(|seed| draw(seed, &[size[1]]).expect("a card"));
                let wide = hidden.to_kind(Kind::Float).contiguous();
                let [wide_weight, wide_bias] = [&weight, &bias].map(|tensor| tensor.to_kind(Kind::Float));
                let expected = wide.group_norm(groups, Some(&wide_weight), Some(&wide_bias), 1e-5, false);
                for is_silu in [false, true] {
                    let found = group_norm(&hidden, [&weight, &bias], (groups, 1e-5), is_silu).expect("a kernel");
                    let expected = if is_silu { expected.silu() } else { expected.shallow_clone() };
                    assert!(error(&found, &expected) < tolerance, "{kind:?}, {size:?}, SiLU {is_silu}");
                }
            }
        }
    }

    #[test]
    fn the_gate_is_libtorchs() {
        for (kind, tolerance) in [(Kind::Half, 2e-3), (Kind::BFloat16, 2e-2)] {
            let Some(projected) = on_card(kind, &Draws::seeded(0).normal(&[2, 77, 2 * 1280])) else { return };
            let halves = projected.to_kind(Kind::Float).chunk(2, -1);
            let found = geglu(&projected).expect("a kernel");
            assert!(error(&found, &(&halves[0] * halves[1].gelu("none"))) < tolerance);
        }
    }

    #[test]
    fn a_graph_does_the_same_again() {
        let Some(read) = on_card(Kind::Float, &Draws::seeded(0).normal(&[64, 64])) else { return };
        let work = || read.matmul(&read).relu();
        drop(work());
        let (graph, written) = CudaGraph::capture(0, None, work).expect("a graph");
        let other = Draws::seeded(1).normal(&[64, 64]).to_device(Device::Cuda(0));
        read.shallow_clone().copy_(&other);
        // SAFETY: both tensors live.
        unsafe { graph.replay() }.expect("replayed");
        assert_eq!(written, other.matmul(&other).relu());
    }
}
