//! How a command ends: its exit status, and what is said when it fails.

use std::any::Any;
use std::error::Error;
use std::io::{self, Write as _};
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use ipa_core::device::DeviceError;
use ipa_hub::HubError;
use ipa_sample::{PipelineError, RequestError};
use ipa_train::TrainError;

use crate::interrupt::Interrupted;
use crate::output;

/// Arguments that contradict each other: exit status 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

/// Runs a command and tells its failure on standard error: one sentence, then its causes, one a line.
///
/// A panic (libtorch's refusals come as such) is told as an error too. A reader of standard output that went away
/// ends the program without a word.
pub(crate) fn reported(command: impl FnOnce() -> anyhow::Result<()>) -> ExitCode {
    panic::set_hook(Box::new(|info| {
        *LAST_PLACE.lock().unwrap_or_else(PoisonError::into_inner) = info.location().map(ToString::to_string);
    }));
    let result = panic::catch_unwind(AssertUnwindSafe(command)).unwrap_or_else(|payload| Err(caught(payload)));
    let Err(error) = result else { return ExitCode::SUCCESS };
    if !error.chain().any(is_broken_pipe) {
        // Nobody is left to be told if this fails.
        let _ = io::stderr().write_all(output::printable(&text(&error)).as_bytes());
    }
    if error.chain().any(is_usage) { ExitCode::from(2) } else { ExitCode::FAILURE }
}

/// Where the last panic began; it may have been on another thread than the one that reports it.
static LAST_PLACE: Mutex<Option<String>> = Mutex::new(None);

fn text(error: &anyhow::Error) -> String {
    let causes = error.chain().skip(1).map(|cause| format!("  caused by: {cause}\n"));
    let flag = error.chain().find_map(field).map(|field| format!("  flag: `{}`\n", flag(field)));
    let setting = error.chain().find_map(setting);
    format!("error: {error}\n{}{}", causes.collect::<String>(), setting.or(flag).unwrap_or_default())
}

fn is_usage(cause: &(dyn Error + 'static)) -> bool {
    cause.is::<UsageError>()
        || request_error(cause).is_some_and(|error| !matches!(error, RequestError::Read { .. }))
        || matches!(cause.downcast_ref(), Some(PipelineError::NeedsMask { .. }))
        || matches!(cause.downcast_ref(), Some(TrainError::Field { .. }))
        || cause.downcast_ref().is_some_and(HubError::is_usage)
        || matches!(cause.downcast_ref(), Some(DeviceError::UnknownDevice { .. } | DeviceError::UnknownKind { .. }))
}

/// The pipeline passes a request's error on as its own, so it is no cause of that.
fn request_error<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a RequestError> {
    match cause.downcast_ref() {
        Some(PipelineError::Request(error)) => Some(error),
        _ => cause.downcast_ref(),
    }
}

/// The field whose value is out of its range.
fn field(cause: &(dyn Error + 'static)) -> Option<&'static str> {
    match request_error(cause)? {
        RequestError::Entry { .. } | RequestError::Layers { .. } => Some("image_prompts"),
        RequestError::Field { field, .. } => Some(field),
        _ => None,
    }
}

/// Where a setting of a training is set: by a flag, or in a file alone.
fn setting(cause: &(dyn Error + 'static)) -> Option<String> {
    let Some(TrainError::Field { field, .. }) = cause.downcast_ref() else { return None };
    let flag = match *field {
        "every" => Some("--validate-every".to_owned()),
        "resolution" | "epochs" | "max_steps" | "batch" | "accumulation" | "save_steps" | "learning_rate"
        | "held_out" | "seed" | "features" | "num_tokens" | "variant" => Some(format!("--{}", field.replace('_', "-"))),
        _ => None,
    };
    Some(flag.map_or_else(|| "  set in the file of `--config`\n".to_owned(), |flag| format!("  flag: `{flag}`\n")))
}

/// The flag that sets a field: its name but for some, and for those of an image prompt the one that sets them all.
fn flag(field: &str) -> String {
    match field {
        "num_steps" => "--steps".to_owned(),
        "images" => "--image".to_owned(),
        "faces" => "--face".to_owned(),
        "image_prompts" | "embeds" | "weight" | "merge" | "crop" | "curve" | "end" | "lora_scale" | "structure" => {
            "--image-prompt".to_owned()
        }
        _ => format!("--{}", field.replace('_', "-")),
    }
}

/// Files are written by `ipa-formats`, whose errors are [`ipa_formats::FormatError`]: what is a plain I/O error here
/// comes from standard output.
fn is_broken_pipe(cause: &(dyn Error + 'static)) -> bool {
    cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn caught(payload: Box<dyn Any + Send>) -> anyhow::Error {
    let payload = match payload.downcast::<Interrupted>() {
        Ok(interrupted) => return anyhow::Error::new(*interrupted),
        Err(payload) => payload,
    };
    let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
    let place = LAST_PLACE.lock().unwrap_or_else(PoisonError::into_inner).take();
    anyhow::Error::msg(sentence(text.unwrap_or("no message"), place.as_deref().unwrap_or("an unknown place")))
}

/// One sentence for a panic. libtorch's messages go on with a stack trace, which is left out.
fn sentence(message: &str, place: &str) -> String {
    let reason = message.split_once("Torch(\"").map_or(message, |(_, reason)| reason);
    let end = reason.find("\\n").into_iter().chain(reason.find('\n')).min().unwrap_or(reason.len());
    let reason = reason[..end].trim_end_matches("\")").replace("\\\"", "\"");
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if says(&["out of memory", "not enough memory", "can't allocate memory"]) {
        format!("out of memory: choose a smaller picture or fewer at once ({reason})")
    } else if says(&["not implemented for 'Half'", "not implemented for 'BFloat16'"]) {
        format!("libtorch cannot compute this in half precision on this device: use `--dtype f32` ({reason})")
    } else {
        format!("this is a mistake of the program ({place}): {reason}; please report it with the command you gave")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_come_one_a_line() {
        let error = anyhow::anyhow!("no space left").context("cannot write a.png");
        assert_eq!(text(&error), "error: cannot write a.png\n  caused by: no space left\n");
    }

    #[test]
    fn a_field_out_of_range_comes_with_its_flag() {
        let request = |field| RequestError::Field { field, value: "0".to_owned(), allowed: "choose 1 to 1000" };
        let error = PipelineError::from(request("num_steps")).into();
        assert_eq!(text(&error), "error: `num_steps` is 0; choose 1 to 1000\n  flag: `--steps`\n");
        assert!(text(&request("num_images").into()).contains("`--num-images`"));
        let error = TrainError::Field { field: "save_steps", value: "0".to_owned(), allowed: "choose at least 1" };
        assert!(text(&error.into()).contains("`--save-steps`"));
    }

    #[test]
    fn ranges_and_names_are_the_users_arguments() {
        let usage = |error: anyhow::Error| error.chain().any(is_usage);
        let field = || RequestError::Field { field: "width", value: "100".to_owned(), allowed: "a multiple of 8" };
        assert!(usage(field().into()));
        assert!(usage(PipelineError::from(field()).into()));
        assert!(usage(anyhow::Error::from(field()).context("while drawing")));
        assert!(usage(DeviceError::UnknownDevice { name: "gpu".to_owned() }.into()));
        let source = io::Error::from(io::ErrorKind::NotFound);
        assert!(!usage(RequestError::Read { path: "request.toml".into(), source }.into()));
        assert!(!usage(DeviceError::Unavailable { name: "cuda".to_owned(), reason: "no card" }.into()));
        assert!(!usage(PipelineError::NotANumber.into()));
    }

    #[test]
    fn libtorchs_refusals_become_one_sentence() {
        let refusal = |reason: &str| {
            let message = format!(
                "called `Result::unwrap()` on an `Err` value: Torch(\"{reason}\\nException raised from f at f.cpp:1\")"
            );
            sentence(&message, "lib.rs:1")
        };
        let memory = refusal("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes");
        assert!(memory.starts_with("out of memory") && memory.contains("4 bytes"), "{memory}");
        assert!(!memory.contains("Exception raised"), "{memory}");
        let half = refusal("\\\"conv\\\" not implemented for 'Half'");
        assert!(half.contains("--dtype f32") && half.contains("\"conv\""), "{half}");
        assert!(refusal("shape mismatch").contains("(lib.rs:1): shape mismatch;"));
    }
}
