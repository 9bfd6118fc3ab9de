//! The run in words.

use super::{ReportInput, StepLoss, ValidationResult, number, score_name};

/// Share of the steps at either end that are compared.
const ENDS: usize = 10;
/// Steps at an end from which a mean and its error can be told.
const MIN_STEPS: usize = 5;

pub(super) fn sentences(input: &ReportInput) -> Vec<String> {
    let mut sentences = vec![training_loss(input.losses)];
    sentences.push(match input.validations {
        [] => "No rows were held out, so nothing tells what it learned from what it memorised: set `held_out` in the \
               section `validation`."
            .to_owned(),
        validations => held_out_loss(validations),
    });
    if let Some(best) = &input.best {
        let metric = score_name(&best.metric);
        sentences.push(format!("Step {} is the best by {metric}; a dashed line marks it in the charts.", best.step));
    }
    sentences.extend(scores(input.validations));
    sentences
}

fn training_loss(losses: &[StepLoss]) -> String {
    let values: Vec<f64> = losses.iter().map(|line| line.loss).filter(|loss| loss.is_finite()).collect();
    let end = values.len() / ENDS;
    if end < MIN_STEPS {
        let count = losses.len();
        return format!(
            "{count} steps are too few to say how the training loss changed: single ones differ by chance."
        );
    }
    let ([before, before_error], [after, after_error]) = (mean(&values[..end]), mean(&values[values.len() - end..]));
    let (from, to) = (number(before), number(after));
    let ends = format!("means over the first and the last {end} steps");
    match after - before {
        change if change.abs() <= 2.0 * before_error.hypot(after_error) => {
            format!("The training loss went from {from} to {to} ({ends}), which could be chance.")
        }
        change if change < 0.0 => format!("The training loss fell from {from} to {to} ({ends})."),
        _ => format!(
            "The training loss rose from {from} to {to} ({ends}): lower the learning rate, or begin with a longer warm-up."
        ),
    }
}

/// Mean and standard error of at least two values.
fn mean(values: &[f64]) -> [f64; 2] {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    [mean, (variance / count).sqrt()]
}

fn held_out_loss(validations: &[ValidationResult]) -> String {
    let losses: Vec<(u64, f64)> = validations
        .iter()
        .filter_map(|result| Some((result.step, result.loss?)))
        .filter(|(_, y)| y.is_finite())
        .collect();
    let lowest = losses.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1));
    let (Some(&(first_step, first)), Some(&(last_step, last)), Some((low_step, low))) =
        (losses.first(), losses.last(), lowest)
    else {
        return "No loss over held-out rows was measured.".to_owned();
    };
    let [first, last, low] = [first, last, low].map(number);
    match () {
        () if losses.len() == 1 => format!("The held-out loss is {last} at step {last_step}; it was measured once."),
        () if low_step == last_step => format!(
            "The held-out loss went from {first} at step {first_step} to {last} at step {last_step}, its lowest: more \
             steps may help."
        ),
        () if low_step == first_step => format!(
            "The held-out loss was lowest at its first measurement, {low} at step {first_step}, and ends at {last}: what \
             was learned since does not carry over to other pictures."
        ),
        () => format!(
            "The held-out loss went from {first} at step {first_step} to its lowest, {low}, at step {low_step}, and ends \
             at {last}: after step {low_step} it no longer got better on pictures it was not trained on."
        ),
    }
}

/// What the scores did, a sentence in all.
fn scores(validations: &[ValidationResult]) -> Option<String> {
    let mut names: Vec<&String> = validations.iter().flat_map(|result| result.scores.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let change = |name: &String| {
        let mut values = validations.iter().filter_map(|result| result.scores.get(name.as_str()));
        let (first, last) = (values.next()?, values.next_back());
        let last = last.map(|&last| format!(" → {}", number(last))).unwrap_or_default();
        Some(format!("{} {}{last}", score_name(name), number(*first)))
    };
    let changes: Vec<String> = names.into_iter().filter_map(change).collect();
    let few = "They are means over a few drawn pictures, so small changes can be chance.";
    (!changes.is_empty()).then(|| format!("Scores, first to last: {}. {few}", changes.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losses(loss: impl Fn(u64) -> f64) -> Vec<StepLoss> {
        (1..=200).map(|step| StepLoss { step, loss: loss(step), ..StepLoss::default() }).collect()
    }

    #[test]
    fn a_change_of_the_loss_is_told_from_chance() {
        let noise = |step: u64| 0.1 * (step as f64 * 12.9898).sin();
        for (slope, words) in [(-0.001, "fell from 0."), (0.0, "could be chance"), (0.001, "rose from 0.")] {
            let sentence = training_loss(&losses(|step| 0.5 + slope * step as f64 + noise(step)));
            assert!(sentence.contains(words), "{sentence}");
        }
        assert!(training_loss(&losses(|_| 0.5)[..20]).contains("too few"));
        assert!(training_loss(&losses(|_| f64::NAN)).contains("too few"));
    }

    #[test]
    fn the_held_out_loss_says_where_it_was_lowest() {
        let validations = |losses: &[f64]| {
            let result = |(step, &loss)| ValidationResult { step, loss: Some(loss), ..ValidationResult::default() };
            (1..).zip(losses).map(result).collect::<Vec<_>>()
        };
        for (losses, words) in [
            (&[0.2][..], "measured once"),
            (&[0.3, 0.2], "at step 2, its lowest"),
            (&[0.2, 0.3], "lowest at its first"),
            (&[0.3, 0.1, 0.2], "0.1000, at step 2, and ends at 0.2000"),
            (&[f64::NAN], "No loss"),
        ] {
            assert!(held_out_loss(&validations(losses)).contains(words), "{losses:?}");
        }
    }

    #[test]
    fn scores_go_from_the_first_to_the_last_that_has_them() {
        let result = |scores: &[(&str, f64)]| {
            let scores = scores.iter().map(|&(name, score)| (name.to_owned(), score)).collect();
            ValidationResult { scores, ..ValidationResult::default() }
        };
        let validations = [result(&[("clip_i", 0.5)]), result(&[]), result(&[("clip_i", 0.75), ("copy", 0.25)])];
        let sentence = scores(&validations).unwrap_or_default();
        assert!(sentence.contains("CLIP-I 0.5000 → 0.7500, copy 0.2500."), "{sentence}");
        assert_eq!(scores(&[]), None);
    }
}
