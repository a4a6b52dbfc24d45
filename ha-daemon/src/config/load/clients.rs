//! `[[clients]]`: programs that the daemon starts and restarts.

use std::path::PathBuf;

use super::reader::{Field, Reader, Span, Table};
use super::resources::read_arguments;
use super::{ClientPart, Places};
use crate::config::finding::quoted;
use crate::config::{CLIENTS_MAX, Client};

pub(super) fn read(
    reader: &mut Reader<'_>,
    root: &mut Table<'_>,
    places: &mut Places,
) -> Vec<Client> {
    let values = match root.array(reader, "clients", "each as a table [[clients]]") {
        Field::Absent | Field::Refused => return Vec::new(),
        Field::Given(values) => values,
    };
    let (span, values) = (values.span(), values.into_inner());
    if values.len() > CLIENTS_MAX {
        let message = format!("{} clients are too many", values.len());
        reader.error(&span, message, format!("keep to {CLIENTS_MAX}"));
    }
    let mut clients = Vec::new();
    for (index, value) in values.into_iter().enumerate() {
        let Some(mut table) = reader.table(value, format!("client {}", index + 1)) else {
            continue;
        };
        if let Some((client, spans)) = read_client(reader, &mut table) {
            for (part, span) in [ClientPart::User, ClientPart::Program].into_iter().zip(spans) {
                places.clients.insert((clients.len(), part), reader.position(span.start));
            }
            clients.push(client);
        }
        table.finish(reader);
    }
    clients
}

/// A client, and where its user and its program are.
fn read_client(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Option<(Client, [Span; 2])> {
    let mut required = |reader: &mut Reader<'_>, key: &'static str, example: &str| {
        let field = table.text(reader, key);
        if matches!(field, Field::Absent) {
            let message = format!("{} has no {key}", table.label());
            reader.error(&table.span(), message, format!("write {key} = {example}"));
        }
        field.given()
    };
    let user = required(reader, "user", "\"...\", the name of a user");
    let program = required(reader, "program", "\"/...\", the path of a program");
    let arguments = read_arguments(reader, table);
    let (user, program) = (user?, program?);
    if !is_user_name(user.get_ref()) {
        let message = format!("{} is not the name of a user", quoted(user.get_ref()));
        reader.error(&user.span(), message, "write it as getent passwd shows it");
        return None;
    }
    let path = PathBuf::from(program.get_ref());
    if !path.is_absolute() || program.get_ref().contains('\0') {
        let message = format!("{} is not an absolute path", quoted(program.get_ref()));
        reader.error(&program.span(), message, "write the path from / on");
        return None;
    }
    let spans = [user.span(), program.span()];
    let client = Client { user: user.into_inner(), program: path, arguments: arguments? };
    Some((client, spans))
}

/// Whether a user may have this name (passwd(5)).
pub(in crate::config) fn is_user_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['\0', ':', '/'])
}
