//! How much pictures differ, and how near they come to those trained on.

use maud::html;

use super::super::super::MethodKind;
use super::super::super::report::{Copying, EvaluationReport, MethodReport};
use super::super::figures::{Cell, Heading, cell, grid};
use super::super::pictures::ReportPictures;
use super::cosine;
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
    let mut grids = Vec::new();
    for (method, found) in shown {
        let title = format!("{}, {}", method.name, found.case);
        let columns: Vec<String> = found.seeds.iter().map(|seed| format!("seed {seed}")).collect();
        let mut rows = Vec::new();
        for (prompt, files) in found.prompts.iter().zip(&found.files) {
            let name = if prompt.is_empty() { "no prompt" } else { prompt };
            let cells = files
                .iter()
                .zip(&found.seeds)
                .map(|(file, seed)| Some(cell(report, file.as_ref()?, &format!("{title}, {name}, seed {seed}"))));
            rows.push((Heading { name, more: "" }, cells.collect()));
        }
        grids.push(html! { div { h3 { (title) } (grid(&title, &columns, &rows, pictures)) } });
    }
    page.push(html! { div.side-by-side { @for grid in grids { (grid) } } });
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
            let drawn =
                cell(report, &found.closest_picture, &format!("{}, closest to a training picture", method.name));
            let numbers = vec![format!("cosine {:.3}", training.cosine)];
            let near =
                Cell { file: &training.file, alt: format!("training picture nearest to {}'s", method.name), numbers };
            (Heading { name: &method.name, more: "closest pair" }, vec![Some(drawn), Some(near)])
        })
        .collect();
    page.push(grid("Closest pairs", &["drawn".to_owned(), "trained on".to_owned()], &rows, pictures));
}
