"""Links from every page to its source, once ``repository: url:`` is named in ``_config.yml``."""

from urllib.parse import urlsplit

from sphinx.application import Sphinx
from sphinx.config import Config

# A page's source is the notebook, not the executed copy; the page on the copies is the runner's.
SOURCE = (
    "{{ 'pi_lib/book/runner.py' if file_name == 'book/executed/record.md' else "
    "file_name.replace('book/executed/', 'notebooks/').replace('.ipynb', '.py') }}"
)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx, which calls this by name."""
    app.connect("config-inited", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def link(app: Sphinx, config: Config) -> None:
    """Buttons to the repository and to a page's source there; none without a repository."""
    options = config.html_theme_options
    if not (url := options.get("repository_url", "").rstrip("/")):
        return
    lab = "gitlab" in urlsplit(url).netloc
    edit = "-/edit" if lab else "edit"
    branch = options.get("repository_branch") or "main"
    options |= {
        "repository_url": url,
        "repository_branch": branch,
        "use_repository_button": True,
        "use_edit_page_button": True,
    }
    config.html_context |= {
        "edit_page_provider_name": "GitLab" if lab else "GitHub",
        "edit_page_url_template": f"{url}/{edit}/{branch}/{SOURCE}",
    }
