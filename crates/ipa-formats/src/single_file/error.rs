//! Why tensors cannot be taken for, or written as, a single-file checkpoint.

/// What is wrong with the tensors of a single-file checkpoint, or of a folder that is to become one.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SingleFileError {
    /// Another kind of file, known by its names or sizes.
    #[error("it is {what}; give a checkpoint of Stable Diffusion 1.x or 2.x")]
    Other {
        /// What the file is, with its article.
        what: String,
    },
    /// None of the names is one of a single-file checkpoint.
    #[error("none of its tensors is named as in a Stable Diffusion checkpoint; check what file it is")]
    Unknown,
    /// Only the flattened averages are there, whose names cannot be read back.
    #[error(
        "it holds only EMA copies (`model_ema.…`) of the UNet; take the file that has `model.diffusion_model.…` too"
    )]
    EmaOnly,
    /// Averages were asked for, and there are none.
    #[error("it has no averaged weights (EMA); leave out `--ema`")]
    NoEma,
    /// Several models of one kind under prefixes of equal standing.
    #[error("it holds several models of one kind, under the prefixes {}; keep one of them", .prefixes.join(", "))]
    Ambiguous {
        /// The prefixes, sorted.
        prefixes: Vec<String>,
    },
    /// A tensor that every such model has.
    #[error("tensor `{name}` is missing; the file is incomplete, fetch or write it again")]
    Missing {
        /// Name in the layout that is read.
        name: String,
    },
    /// A tensor whose sizes contradict what it is for.
    #[error("tensor `{name}` has shape {shape:?}, expected {expected}; the file is damaged or of another kind")]
    Shape {
        /// Name in the layout that is read.
        name: String,
        /// Its sizes.
        shape: Vec<usize>,
        /// What fits.
        expected: String,
    },
    /// Two tensors that would become the same one.
    #[error("tensors {} all stand for `{name}`; remove all but one", quoted(.sources))]
    Collision {
        /// Name in the layout that is made.
        name: String,
        /// Names in the layout that is read.
        sources: Vec<String>,
    },
    /// A folder's tensor for which the single-file layout has no name.
    #[error(
        "tensor `{name}` of the {component} has no place in a single-file checkpoint; remove it or keep the folder"
    )]
    NoPlace {
        /// Folder of the component.
        component: &'static str,
        /// Name in the folder.
        name: String,
    },
    /// Bytes that are not those the plan was made for.
    #[error("tensor `{name}` needs {needed} bytes, its sources have {found}; plan again from the file that is read")]
    Bytes {
        /// Name in the layout that is made.
        name: String,
        /// Bytes of all sources.
        found: usize,
        /// Bytes of the tensor.
        needed: usize,
    },
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" and ")
}
