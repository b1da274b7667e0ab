"""python -m experiments study universality --flagfile=students.cfg: the paper's Fig. 4.

The same as `study students`, by the paper's name.
"""

from experiments.studies.students import STUDY as STUDENTS

STUDY = STUDENTS
