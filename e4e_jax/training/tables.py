"""Plain text tables for the end of a run."""


def format_table(title: str, columns: list[str], rows: dict[str, list[float]]) -> str:
    """Rows of numbers under column names, aligned: {row name: values} -> text."""
    names = max(len(name) for name in [title, *rows])
    widths = [max(len(column), 8) for column in columns]
    lines = [
        "  ".join([title.ljust(names), *(c.rjust(w) for c, w in zip(columns, widths, strict=True))])
    ]
    for name, values in rows.items():
        cells = (f"{v:.4f}".rjust(w) for v, w in zip(values, widths, strict=True))
        lines.append("  ".join([name.ljust(names), *cells]))
    return "\n".join(lines)
