//! What can be wrong with a torch file.

/// Why a file that torch may have written is not read.
#[derive(Debug, thiserror::Error)]
pub enum TorchError {
    /// The pickle calls, or merely names, something that is neither a tensor nor a plain container.
    #[error(
        "its pickle asks for `{callable}`, which is never run: only tensors and plain containers are read; do not \
         open it elsewhere unless you trust its author, and ask for a .safetensors file of the same weights"
    )]
    Refused {
        /// Module and name, escaped and shortened.
        callable: String,
    },
    /// The pickle uses an instruction that `torch.save` never writes.
    #[error("byte {at} of its pickle is instruction {opcode:#04x}, which torch.save does not write; save it again")]
    Instruction {
        /// The instruction.
        opcode: u8,
        /// Its place.
        at: usize,
    },
    /// The pickle contradicts itself.
    #[error("its pickle is not as torch writes one at byte {at}: {problem}; fetch or write the file again")]
    Malformed {
        /// Place of the instruction at fault.
        at: usize,
        /// What is wrong there.
        problem: &'static str,
    },
    /// The bytes end too early.
    #[error("it is cut short: {what} at byte {at} is not all there; fetch or write the file again")]
    CutShort {
        /// What was being read.
        what: &'static str,
        /// Where it starts.
        at: usize,
    },
    /// More of something than any checkpoint has.
    #[error("it has more than {limit} {what}; save the weights alone, without what else the checkpoint carries")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much is accepted.
        limit: usize,
    },
    /// The archive around the pickle is not as torch writes it.
    #[error("{entry}: {problem}; load it with torch and torch.save it again")]
    Archive {
        /// Entry at fault, or the archive's directory.
        entry: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A program for libtorch rather than weights.
    #[error("it is a TorchScript program, not weights; save the module's state_dict() with torch.save instead")]
    Script,
    /// Numbers of a machine that counts bytes from the other end.
    #[error("its numbers are big-endian; load it with torch and torch.save it on a little-endian machine")]
    BigEndian,
    /// The start of the file is not that of any format of torch.
    #[error("it does not begin as a file that torch.save wrote")]
    NotTorch,
    /// The bytes of a tensor are not there, or not as many as they should be.
    #[error("storage `{key}` {problem}; fetch or write the file again")]
    Storage {
        /// The storage's key in the pickle.
        key: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A tensor that does not fit its storage, or that has no shape a tensor can have.
    #[error("tensor `{name}` {problem}")]
    Tensor {
        /// The tensor's name, containers joined by points.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Two tensors or values whose names are equal when containers are joined by points.
    #[error("`{name}` is there twice; rename one of the two")]
    Twice {
        /// The name.
        name: String,
    },
}

/// Text from a stranger's file, fit for a message: escaped and at most 120 characters.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(120).flat_map(char::escape_debug).collect()
}
