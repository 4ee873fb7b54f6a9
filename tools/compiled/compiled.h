/* Read by the C compiler before each file that mypyc has made.
 *
 * A slice of bytes that ends before it begins is empty in Python. mypyc asks for bytes of a negative size there, which
 * the interpreter answers with SystemError. tests/test_compiled.py fails without this.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

static inline PyObject *dougdb_bytes(const char *text, Py_ssize_t size) {
    return PyBytes_FromStringAndSize(text, size < 0 ? 0 : size);
}

#define PyBytes_FromStringAndSize dougdb_bytes
