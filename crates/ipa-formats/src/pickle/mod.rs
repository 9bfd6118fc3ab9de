//! Reading the files that `torch.save` writes, without running what they ask for.
//!
//! Such a file is a pickle, a program for a small stack machine that may call any Python function,
//! and the raw bytes of its tensors. The machine here knows tensors and plain containers only; it
//! calls nothing, and refuses a pickle by the name of what that would have called:
//!
//! - `cursor`, `opcode`, `machine`, `calls`, `objects`, `globals`: from bytes to objects;
//! - `directory`, `stream`, `tar`: the three containers, from torch 1.6, 0.2 and 0.1 on;
//! - `flatten`, `place`: from objects to named tensors, each within its storage's bytes.
//!
//! Whatever a file claims, a limited number of objects is made from it, names and texts are limited in
//! total, and no tensor takes more bytes than its storage has in the file.

mod calls;
mod cursor;
mod directory;
mod error;
mod file;
mod flatten;
mod globals;
mod index;
mod machine;
mod objects;
mod opcode;
mod place;
mod stream;
mod tar;

pub use error::TorchError;
pub use file::TorchFile;
pub use flatten::PlainValue;
pub use index::TorchIndex;

pub(crate) use index::is_torch;
