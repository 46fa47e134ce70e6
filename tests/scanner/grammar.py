"""What PostgreSQL's own grammar (libpg_query, by pglast) makes of a text: the facts that a session cares about.

Knows parse trees as JSON; nothing of Weir's scanner. Each fact is a list, its kind first:

  set NAME, reset NAME     a setting, for the session
  local NAME               set_config for the transaction
  reset_all, discard_all, discard, temporary, hold, prepare, execute, deallocate, listen, unlisten, notify, load, routine, close, drop
  function NAME            a function that matters by its name
  unseen                   a setting whose name is not a plain string in the text
  database NAME            CREATE, DROP, ALTER DATABASE; NAME is the one that others must leave
"""
import json

from pglast import parser

# By the whole name; the scanner may know more, by how they begin.
FUNCTIONS = {
    "set_config", "set_limit", "setseed", "pg_notify", "pg_terminate_backend", "currval", "lastval", "nextval", "setval",
    "pg_advisory_lock", "pg_advisory_lock_shared", "pg_try_advisory_lock", "pg_try_advisory_lock_shared",
    "pg_advisory_unlock", "pg_advisory_unlock_shared", "pg_advisory_unlock_all",
    "dblink_connect", "dblink_connect_u", "dblink", "dblink_exec", "query_to_xml", "cursor_to_xml", "table_to_xml",
    "schema_to_xml", "database_to_xml", "query_to_xmlschema", "query_to_xml_and_xmlschema", "ts_stat", "ts_rewrite",
    "crosstab", "crosstab2", "connectby", "xpath_table", "pg_create_physical_replication_slot",
    "pg_create_logical_replication_slot", "pg_copy_logical_replication_slot", "pg_backup_start",
    "pg_replication_origin_session_setup",
}
SIMPLE = {
    "PrepareStmt": "prepare", "ExecuteStmt": "execute", "DeallocateStmt": "deallocate", "ListenStmt": "listen",
    "UnlistenStmt": "unlisten", "NotifyStmt": "notify", "LoadStmt": "load", "DoStmt": "routine",
    "CallStmt": "routine", "ClosePortalStmt": "close", "DropStmt": "drop",
}
# What is kept for later: nothing of it happens now.
LATER = {"CreateFunctionStmt": ("options", "sql_body"), "AlterFunctionStmt": ("actions",), "RuleStmt": ("actions",)}
CURSOR_OPT_HOLD = 0x0020


def facts(text):
    """The facts of a text, how many statements it has and whether they only undo; None if the grammar refuses it."""
    try:
        statements = json.loads(parser.parse_sql_json(text)).get("stmts", [])
    except Exception:
        return None
    found = []
    undoes = bool(statements)
    for statement in statements:
        statement = statement.get("stmt", {})
        walk(statement, found)
        undoes = undoes and only_undoes(statement)
    return {"statements": len(statements), "undoes": undoes, "facts": found}


def walk(node, found):
    if isinstance(node, list):
        for item in node:
            walk(item, found)
    elif isinstance(node, dict):
        for kind, inside in node.items():
            if isinstance(inside, dict):
                note(kind, inside, found)
                inside = {k: v for k, v in inside.items() if k not in LATER.get(kind, ())}
            if kind == "schemaname" and inside.startswith("pg_temp"):
                found.append(["temporary"])
            walk(inside, found)


def note(kind, node, found):
    if kind in SIMPLE:
        found.append([SIMPLE[kind]])
    elif kind == "VariableSetStmt":
        variable(node, found)
    elif kind == "DiscardStmt":
        found.append(["discard_all" if node.get("target", "DISCARD_ALL") == "DISCARD_ALL" else "discard"])
    elif kind == "DeclareCursorStmt" and node.get("options", 0) & CURSOR_OPT_HOLD:
        found.append(["hold"])
    elif kind == "String" and node.get("sval", "").startswith("pg_temp"):
        found.append(["temporary"])
    elif kind == "FuncCall":
        call(node, found)
    elif kind == "UpdateStmt" and node["relation"].get("relname") == "pg_settings":
        found.append(["unseen"])
    else:
        database(kind, node, found)
    created = {
        "CreateStmt": ("relation",), "ViewStmt": ("view",), "CreateSeqStmt": ("sequence",),
        "CreateTableAsStmt": ("into", "rel"), "SelectStmt": ("intoClause", "rel"),
    }.get(kind)
    if created:
        relation = node
        for step in created:
            relation = relation.get(step, {})
        if relation.get("relpersistence") == "t":
            found.append(["temporary"])


def variable(node, found):
    kind, name = node["kind"], node.get("name", "")
    if kind == "VAR_RESET_ALL":
        found.append(["reset_all"])
    elif node.get("is_local"):
        if name == "search_path" and "pg_temp" in json.dumps(node).lower():
            found.append(["temporary"])
    elif kind == "VAR_SET_MULTI":
        if name == "SESSION CHARACTERISTICS":
            for mode in node.get("args", []):
                found.append(["set", "default_" + mode["DefElem"]["defname"]])
    elif kind in ("VAR_RESET", "VAR_SET_DEFAULT"):
        found.append(["reset", name.lower()])
    else:
        found.append(["set", name.lower()])


def call(node, found):
    name = node["funcname"][-1]["String"].get("sval", "")
    if name not in FUNCTIONS:
        return
    if name != "set_config":
        found.append(["function", name])
        return
    arguments = [constant(argument) for argument in node.get("args", [])]
    path = arguments[1] if len(arguments) > 1 else None
    if arguments[:1] == ["search_path"] and (not isinstance(path, str) or "pg_temp" in path.lower()):
        found.append(["temporary"])
    if arguments[:1] and isinstance(arguments[0], str):
        found.append(["local" if arguments[2:] == [True] else "set", arguments[0].lower()])
    else:
        found.append(["unseen"])


def constant(node):
    """A constant's value; None for any other expression."""
    if "TypeCast" in node:
        kind = node["TypeCast"]["typeName"]["names"][-1]["String"]["sval"]
        value = constant(node["TypeCast"]["arg"])
        return value if kind in ("text", "varchar") else None
    value = node.get("A_Const", {})
    if "boolval" in value:
        return value["boolval"].get("boolval", False)
    return value.get("sval", {}).get("sval", "") if "sval" in value else None


def database(kind, node, found):
    if kind == "CreatedbStmt":
        options = [option["DefElem"] for option in node.get("options", [])]
        template = [option.get("arg") for option in options if option["defname"] == "template"]
        named = template and template[0]
        found.append(["database", named["String"]["sval"] if named else "template1"])
    elif kind == "DropdbStmt":
        found.append(["database", node["dbname"]])
    elif kind == "RenameStmt" and node.get("renameType") == "OBJECT_DATABASE":
        found.append(["database", node["subname"]])
    elif kind == "AlterDatabaseStmt":
        if any(option["DefElem"]["defname"] == "tablespace" for option in node.get("options", [])):
            found.append(["database", node["dbname"]])


def only_undoes(statement):
    (kind, node), = statement.items() if len(statement) == 1 else [("", {})]
    if kind in ("DiscardStmt",):
        return True
    if kind in ("UnlistenStmt", "ClosePortalStmt", "DeallocateStmt"):
        return not (node.get("name") or node.get("conditionname") or node.get("portalname"))
    if kind == "VariableSetStmt":
        back = node["kind"] in ("VAR_RESET", "VAR_SET_DEFAULT") and not node.get("is_local")
        return node["kind"] == "VAR_RESET_ALL" or back and node["name"] in ("role", "session_authorization")
    if kind == "SelectStmt":
        targets = node.get("targetList", [])
        value = targets[0]["ResTarget"].get("val", {}) if len(targets) == 1 else {}
        named = value.get("FuncCall", {}).get("funcname", [{}])
        return named[-1].get("String", {}).get("sval") == "pg_advisory_unlock_all" and "fromClause" not in node
    return False
