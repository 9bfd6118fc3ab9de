//! Many references: those held out, and those of a protocol beside the published table.

use maud::html;

use super::super::super::report::{EvaluationReport, MethodReport, Remark, Summary, Tone};
use super::super::super::{MethodKind, Row, Set};
use super::super::figures::{Heading, cell, grid};
use super::super::pictures::ReportPictures;
use super::super::remarks;
use super::{MAX_CASES, columns, cosine, or_dash, reference, scored};
use crate::Report;

/// References that were not trained on.
pub(in super::super) fn held_out(page: &mut Report, report: &EvaluationReport, pictures: &ReportPictures) {
    let measured: Vec<_> = report.methods().filter_map(|method| Some((method, method.held_out.as_ref()?))).collect();
    if measured.is_empty() {
        return;
    }
    page.section("Held-out references");
    page.paragraph("References that were never trained on: what of the scores is ability, and not memory.");
    summaries(page, &measured);
    shown_of(page, report, Set::HeldOut, pictures);
}

fn summaries(page: &mut Report, measured: &[(&MethodReport, &Summary)]) {
    let row = |(method, found): &(&MethodReport, &Summary)| {
        let (cases, drawn) = (found.num_cases.to_string(), found.num_pictures.to_string());
        let clip_t = found.clip_t.or(found.captions.as_ref().map(|captions| captions.first));
        let calibrated = or_dash(found.calibrated.map(|interval| format!("{interval:.0}")));
        vec![method.name.clone(), cases, drawn, cosine(Some(found.clip_i)), cosine(clip_t), calibrated]
    };
    let rows: Vec<Vec<String>> = measured.iter().map(row).collect();
    page.table(&["method", "references", "pictures", "CLIP-I", "CLIP-T", "calibrated"], &rows);
}

/// Some cases of a set, as many as there are pictures for.
fn shown_of(page: &mut Report, report: &EvaluationReport, set: Set, pictures: &ReportPictures) {
    let methods: Vec<&MethodReport> = report
        .methods()
        .filter(|method| method.kind != MethodKind::ReferenceItself)
        .filter(|method| report.pictures.iter().any(|row| row.set == set && row.method == method.name))
        .collect();
    let is_shown = |row: &&Row| row.set == set && pictures.contains(&row.file) && pictures.contains(&row.reference);
    let mut cases: Vec<&Row> = report.pictures.iter().filter(is_shown).collect();
    cases.dedup_by(|a, b| a.case == b.case);
    let mut rows = Vec::new();
    for case in cases.into_iter().take(MAX_CASES) {
        let reference = reference(&case.case, &case.reference);
        let drawn = methods.iter().map(|method| {
            let row = scored(report, method).find(|row| row.set == set && row.case == case.case)?;
            Some(cell(row, &format!("{}, {}", case.case, method.name)))
        });
        let cells: Vec<_> = std::iter::once(Some(reference)).chain(drawn).collect();
        rows.push((Heading { name: &case.case, more: &case.prompt }, cells));
    }
    if !rows.is_empty() {
        page.push(grid(super::set(set), &columns(methods.into_iter()), &rows, pictures));
    }
}

/// A protocol run beside the published table.
pub(in super::super) fn protocol(page: &mut Report, report: &EvaluationReport, pictures: &ReportPictures) {
    let measured: Vec<_> = report.methods().filter_map(|method| Some((method, method.protocol.as_ref()?))).collect();
    let Some(published) = &report.published else { return };
    page.section("Beside the paper's table");
    if !published.deviations.is_empty() {
        let text = format!("Not comparable number by number: {}.", published.deviations.join(", "));
        page.push(remarks(&[Remark { tone: Tone::Caution, text }]));
    }
    let num = measured.first().map_or((0, 0), |(_, found)| (found.num_pictures, found.num_cases));
    page.paragraph(&format!(
        "First what was measured here, with {} pictures of {} images, then what was published: {}.",
        num.0, num.1, published.source
    ));
    let parameters = |name: &str| {
        let method = report.settings.method(name).and_then(|(_, method)| method.num_parameters);
        or_dash(method.map(|num| format!("{:.1}", num as f64 / 1e6)))
    };
    let ours = measured.iter().map(|(method, found)| {
        let clip_t = cosine(found.captions.as_ref().map(|captions| captions.first_clip_score));
        let (origin, clip_i) = ("measured".to_owned(), cosine(Some(found.clip_i)));
        vec![method.name.clone(), origin, parameters(&method.name), clip_t, clip_i]
    });
    let theirs = published.rows.iter().map(|row| {
        let (clip_t, clip_i) = (format!("{:.3}", row.clip_t), format!("{:.3}", row.clip_i));
        let millions = row.num_million_parameters.to_string();
        vec![row.method.clone(), "published".to_owned(), millions, clip_t, clip_i]
    });
    let rows: Vec<Vec<String>> = ours.chain(theirs).collect();
    page.table(&["method", "origin", "parameters, M", "CLIP-T × 2.5", "CLIP-I"], &rows);
    let by_choice = |(method, found): &(&MethodReport, &Summary)| {
        let captions = found.captions.as_ref();
        let cells = [
            captions.map(|captions| captions.first),
            captions.map(|captions| captions.first_clip_score),
            captions.map(|captions| captions.mean),
            captions.map(|captions| captions.mean_clip_score),
        ];
        std::iter::once(method.name.clone()).chain(cells.map(cosine)).collect::<Vec<_>>()
    };
    page.paragraph(
        "CLIP-T as measured here, by the choices that the paper leaves open; the table above has the second column.",
    );
    page.table(
        &["method", "first caption", "× 2.5", "mean of captions", "× 2.5"],
        &measured.iter().map(by_choice).collect::<Vec<_>>(),
    );
    page.push(html! { ul.note { @for caveat in &published.caveats { li { (caveat) } } } });
    shown_of(page, report, Set::Protocol, pictures);
}
