//! How much pictures differ, and how near they come to those trained on.

use maud::html;

use super::super::super::report::{Copying, EvaluationReport, MethodReport};
use super::super::super::{MethodKind, Row, Set};
use super::super::figures::{Cell, Heading, cell, grid};
use super::super::pictures::ReportPictures;
use super::{cosine, scored};
use crate::Report;

/// Diversity, prompt sensitivity, and the pictures that they are of.
pub(in super::super) fn seeds_and_prompts(page: &mut Report, report: &EvaluationReport, pictures: &ReportPictures) {
    let is_measured = |method: &&MethodReport| method.diversity.is_some() || method.prompt_sensitivity.is_some();
    let measured: Vec<&MethodReport> = report.methods().filter(is_measured).collect();
    let drawn: Vec<&MethodReport> =
        report.adapters.iter().filter(|method| !method.seeds_by_prompts.is_empty()).collect();
    if measured.is_empty() && drawn.is_empty() {
        return;
    }
    page.section("Seeds and prompts");
    page.paragraph(
        "Diversity: how much pictures of one request differ from seed to seed. Prompt sensitivity: how much a picture \
         changes when only the prompt does. Both are 1 − cosine; near 0 every picture is the same.",
    );
    let row =
        |method: &&MethodReport| vec![method.name.clone(), cosine(method.diversity), cosine(method.prompt_sensitivity)];
    if !measured.is_empty() {
        page.table(&["method", "diversity", "prompt sensitivity"], &measured.iter().map(row).collect::<Vec<_>>());
    }
    let shown =
        drawn.iter().flat_map(|method| method.seeds_by_prompts.iter().take(2).map(move |found| (method, found)));
    for (method, found) in shown {
        let title = format!("{}, {}", method.name, found.case);
        let columns: Vec<String> = found.seeds.iter().map(|seed| format!("seed {seed}")).collect();
        let mut rows = Vec::new();
        for (prompt, files) in found.prompts.iter().zip(&found.files) {
            let name = if prompt.is_empty() { "no prompt" } else { prompt };
            let of_prompt = |row: &&Row| row.set == Set::Tests && row.case == found.case && row.prompt == *prompt;
            let cells = files.iter().zip(&found.seeds).map(|(file, seed)| {
                let is_meant = |row: &&Row| of_prompt(row) && row.seed == *seed && Some(&row.file) == file.as_ref();
                Some(cell(scored(report, method).find(is_meant)?, &format!("{title}, seed {seed}")))
            });
            rows.push((Heading { name, more: "" }, cells.collect()));
        }
        page.push(html! { h3 { (title) } });
        page.push(grid(&title, &columns, &rows, pictures));
    }
}

/// Nearest training pictures.
pub(in super::super) fn copying(page: &mut Report, report: &EvaluationReport, pictures: &ReportPictures) {
    let measured: Vec<_> = report.methods().filter_map(|method| Some((method, method.copying.as_ref()?))).collect();
    let Some((_, any)) = measured.first() else { return };
    page.section("Copying");
    page.paragraph(&format!(
        "How like each picture is to the training picture that it is most like. From a cosine of {} on it is called a likely \
         copy; whether it is one, eyes decide. The row of the references tells how like real pictures of the subject are.",
        any.threshold
    ));
    let row = |(method, found): &(&MethodReport, &Copying)| {
        let share = format!("{} of {}", found.num_likely_copies, found.num_pictures);
        vec![method.name.clone(), cosine(Some(found.nearest)), share]
    };
    page.table(
        &["method", "nearest training picture, cosine", "likely copies"],
        &measured.iter().map(row).collect::<Vec<_>>(),
    );
    let rows: Vec<_> = measured
        .iter()
        .filter(|(method, _)| method.kind == MethodKind::Adapter)
        .map(|(method, found)| {
            let training = &found.closest_training;
            let row = report.pictures.iter().find(|row| row.method == method.name && row.file == found.closest_picture);
            let drawn = row.map(|row| cell(row, &format!("{}, closest to a training picture", method.name)));
            let numbers = vec![format!("cosine {:.3}", training.cosine)];
            let alt = format!("training picture nearest to {}'s", method.name);
            let near = Cell { file: &training.file, alt, numbers, prompt: "" };
            (Heading { name: &method.name, more: "closest pair" }, vec![drawn, Some(near)])
        })
        .collect();
    page.push(grid("Closest pairs", &["drawn".to_owned(), "trained on".to_owned()], &rows, pictures));
}
