//! Calls of the model on a card, recorded once and replayed.

use std::cell::RefCell;

use ipa_core::CudaGraph;
use ipa_core::tch::{Device, Tensor};

/// What two calls must have in common for one to be a replay of the other, beside the sizes of what they read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CallKind {
    /// Which conditions are read, as their address.
    pub(crate) conditions: usize,
    /// The image prompts that act, with their factors.
    pub(crate) factors: Vec<(usize, f64)>,
}

/// The calls of one request: the first of a kind is made as ever, the second recorded, and those after it replayed, to the
/// same numbers.
#[derive(Debug)]
pub(crate) struct Recorder<'a> {
    device: usize,
    /// The last graph of the request before.
    last: &'a RefCell<Option<Kept>>,
    kinds: Vec<(CallKind, State)>,
}

#[derive(Debug)]
enum State {
    /// Made when so many of the calls, as a share, were behind.
    Made {
        done: f64,
    },
    Recorded(Recording),
    /// This libtorch does not record, or not this.
    NotRecorded,
}

/// A graph that is not replayed any more, for the next one of its size to take over its memory.
#[derive(Debug)]
pub(crate) struct Kept {
    graph: CudaGraph,
    size: Vec<i64>,
}

/// Tensors at the addresses that the graph reads and writes.
#[derive(Debug)]
struct Recording {
    graph: CudaGraph,
    latents: Tensor,
    timestep: Tensor,
    prediction: Tensor,
}

impl<'a> Recorder<'a> {
    /// `None` where there is no card. Only the first one's calls are recorded: libtorch records on the card that is current for
    /// CUDA, and the first is.
    pub(crate) fn new(device: Device, last: &'a RefCell<Option<Kept>>) -> Option<Self> {
        match device {
            Device::Cuda(device @ 0) => Some(Self { device, last, kinds: Vec::new() }),
            _ => None,
        }
    }

    /// `call(latents, timestep)` when `done` of the calls, as a share, are behind. It has to do the same for every call of the
    /// kind, and read nothing else that changes.
    pub(crate) fn predict(
        &mut self,
        (kind, done): (CallKind, f64),
        (latents, timestep): (&Tensor, &Tensor),
        call: impl Fn(&Tensor, &Tensor) -> Tensor,
    ) -> Tensor {
        let Some(index) = self.kinds.iter().position(|(known, _)| *known == kind) else {
            self.kinds.push((kind, State::Made { done }));
            return call(latents, timestep);
        };
        // Parts of one step are of a kind that may never come again, as under a course of strengths.
        if matches!(self.kinds[index].1, State::Made { done: before } if before < done) {
            self.kinds[index].1 = self.record(latents, timestep, &call);
        }
        match &mut self.kinds[index].1 {
            State::Recorded(recording) => {
                recording.replay(latents, timestep).unwrap_or_else(|| call(latents, timestep))
            }
            State::Made { .. } | State::NotRecorded => call(latents, timestep),
        }
    }

    fn record(&self, latents: &Tensor, timestep: &Tensor, call: impl Fn(&Tensor, &Tensor) -> Tensor) -> State {
        let own = self.kinds.iter().find_map(|(_, state)| match state {
            State::Recorded(recording) => Some(&recording.graph),
            State::Made { .. } | State::NotRecorded => None,
        });
        let mut last = self.last.borrow_mut();
        last.take_if(|kept| kept.size != latents.size());
        let like = own.or(last.as_ref().map(|kept| &kept.graph));
        let (latents, timestep) = (latents.copy(), timestep.copy());
        match CudaGraph::capture(self.device, like, || call(&latents, &timestep)) {
            Ok((graph, prediction)) => State::Recorded(Recording { graph, latents, timestep, prediction }),
            Err(_) => State::NotRecorded,
        }
    }
}

impl Drop for Recorder<'_> {
    fn drop(&mut self) {
        let recordings = self.kinds.drain(..).filter_map(|(_, state)| match state {
            State::Recorded(recording) => Some(recording),
            State::Made { .. } | State::NotRecorded => None,
        });
        if let Some(Recording { graph, latents, .. }) = recordings.reduce(|_, last| last) {
            self.last.replace(Some(Kept { graph, size: latents.size() }));
        }
    }
}

impl Recording {
    fn replay(&mut self, latents: &Tensor, timestep: &Tensor) -> Option<Tensor> {
        self.latents.copy_(latents);
        self.timestep.copy_(timestep);
        // SAFETY: the conditions, masks and weights that the call reads live as long as the request, and so longer than the
        // recorder; the tensors are here; predictions are copied before another graph is replayed.
        unsafe { self.graph.replay() }.ok()?;
        Some(self.prediction.copy())
    }
}
