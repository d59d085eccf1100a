"""Chat templates for bases whose checkpoints come without one."""

# Words alone, one turn behind the other: for bases whose processor puts pictures in front.
WORDS_ALONE = (
    "{%- for message in messages %}"
    "{%- if message.content is string %}{{ message.content }}{%- else %}"
    "{%- for part in message.content if part.type == 'text' %}{{ part.text }}{%- endfor %}{%- endif %}"
    "{%- if message.role == 'assistant' %}{{ eos_token }}{%- endif %}"
    "{%- if not loop.last %}{{ ' ' }}{%- endif %}{%- endfor %}"
)


def turns(behind_question: str, behind_answer: str) -> str:
    """
    A chat template without roles: pictures, then text, and what closes a question (but the last) and an answer.

    The last question is closed by the base's processor.
    """
    return (
        "{%- for message in messages %}"
        "{%- if message.content is string %}{{ message.content }}{%- else %}"
        "{%- for part in message.content if part.type == 'image' %}<image>{%- endfor %}"
        "{%- for part in message.content if part.type == 'text' %}{{ part.text }}{%- endfor %}{%- endif %}"
        f"{{%- if message.role == 'assistant' %}}{{{{ {behind_answer} }}}}"
        f"{{%- elif not loop.last %}}{{{{ {behind_question} }}}}{{%- endif %}}"
        "{%- endfor %}"
    )


__all__ = ["WORDS_ALONE", "turns"]
