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
    /// The last graph of the request before, whose memory the next one takes over.
    last: &'a RefCell<Option<CudaGraph>>,
    kinds: Vec<(CallKind, Calls)>,
}

#[derive(Debug)]
enum Calls {
    Made,
    Recorded(Recording),
    /// This libtorch does not record, or not this.
    NotRecorded,
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
    /// `None` where there is no card.
    pub(crate) fn new(device: Device, last: &'a RefCell<Option<CudaGraph>>) -> Option<Self> {
        match device {
            Device::Cuda(device) => Some(Self { device, last, kinds: Vec::new() }),
            _ => None,
        }
    }

    /// `call(latents, timestep)`. It has to do the same for every call of the kind, and read nothing else that changes.
    pub(crate) fn predict(
        &mut self,
        kind: CallKind,
        (latents, timestep): (&Tensor, &Tensor),
        call: impl Fn(&Tensor, &Tensor) -> Tensor,
    ) -> Tensor {
        let Some(index) = self.kinds.iter().position(|(known, _)| *known == kind) else {
            self.kinds.push((kind, Calls::Made));
            return call(latents, timestep);
        };
        if matches!(self.kinds[index].1, Calls::Made) {
            self.kinds[index].1 = self.record(latents, timestep, &call);
        }
        match &mut self.kinds[index].1 {
            Calls::Recorded(recording) => {
                recording.replay(latents, timestep).unwrap_or_else(|| call(latents, timestep))
            }
            Calls::Made | Calls::NotRecorded => call(latents, timestep),
        }
    }

    fn record(&self, latents: &Tensor, timestep: &Tensor, call: impl Fn(&Tensor, &Tensor) -> Tensor) -> Calls {
        let own = self.kinds.iter().find_map(|(_, calls)| match calls {
            Calls::Recorded(recording) => Some(&recording.graph),
            Calls::Made | Calls::NotRecorded => None,
        });
        let last = self.last.borrow();
        let (latents, timestep) = (latents.copy(), timestep.copy());
        match CudaGraph::capture(self.device, own.or(last.as_ref()), || call(&latents, &timestep)) {
            Ok((graph, prediction)) => Calls::Recorded(Recording { graph, latents, timestep, prediction }),
            Err(_) => Calls::NotRecorded,
        }
    }
}

impl Drop for Recorder<'_> {
    fn drop(&mut self) {
        let graphs = self.kinds.drain(..).filter_map(|(_, calls)| match calls {
            Calls::Recorded(recording) => Some(recording.graph),
            Calls::Made | Calls::NotRecorded => None,
        });
        if let Some(graph) = graphs.reduce(|_, last| last) {
            self.last.replace(Some(graph));
        }
    }
}

impl Recording {
    fn replay(&mut self, latents: &Tensor, timestep: &Tensor) -> Option<Tensor> {
        self.latents.copy_(latents);
        self.timestep.copy_(timestep);
        self.graph.replay().ok()?;
        Some(self.prediction.copy())
    }
}
